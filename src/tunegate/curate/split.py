"""Give whole clusters to train, dev and test, in an order that depends on nothing but the seed and the rows themselves."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path

from tunegate import rows as row_files
from tunegate.curate.join import similar_to
from tunegate.curate.near_duplicates import connected, similar_pairs
from tunegate.digests import sha256
from tunegate.errors import BadInput
from tunegate.recipe import Curate

LARGE_CLUSTER_ROWS = 6  # larger ones teach more than they test: one cluster is one independent observation; arbitrary


def assign(rows: list[dict], config: Curate) -> list[str]:
    """Name for each row its part: "test", "dev" or "train".

    Task types take turns, so that each is in test and dev; at most half of a type's clusters leave train, and large clusters
    stay there, as long as the wanted sizes can be reached that way. None is test where curate.test_set gives the test.
    """
    members = defaultdict(list)
    for i, row in enumerate(rows):
        members[row["cluster"]].append(i)
    order = sorted(members, key=lambda cluster: sha256(f"{config.seed}:{cluster}".encode()))
    side = ["train"] * len(rows)
    free = dict.fromkeys(order)  # an ordered set
    for part, wanted in (("test", 0 if config.test_set else config.test_rows), ("dev", config.dev_rows)):
        for cluster in _take(wanted, list(free), members, rows, _reserved(order, members, rows)):
            del free[cluster]
            for i in members[cluster]:
                side[i] = part
    return side


def group_edges(rows: list[dict]) -> list[tuple[int, int]]:
    """Pair each row with the first of its "group" (a conversation, a source document), so that a group stays on one side."""
    first: dict[str, int] = {}
    edges = [(first.setdefault(row["group"], i), i) for i, row in enumerate(rows) if row.get("group")]
    return [(i, j) for i, j in edges if i != j]


def with_clusters(rows: list[dict], pairs: list[tuple[int, int]]) -> list[dict]:
    """Name for each row the smallest row that `pairs` connect it with; rows must be sorted by id for that to be the smallest id."""
    return [{**row, "cluster": rows[first]["id"]} for row, first in zip(rows, connected(len(rows), pairs), strict=True)]


def read_test_set(path: Path | str, threshold: float, problem: Callable[[dict], str]) -> list[dict]:
    """Read the user's own test set: its conversations as they are, none left out, in order of their ids and with clusters.

    Args:
        problem: says why a row cannot be asked or judged; empty where it can.

    Raises:
        BadInput: the file is missing, is empty, or has a line that is no conversation ending in an answer, or has a problem.
    """
    rows = []
    for number, row in enumerate(row_files.read_rows(path), 1):
        if wrong := row_files.problem(row["messages"], row.get("tools")) or problem(row):
            raise BadInput(f"Row {number} of curate.test_set {path} cannot be tested: {wrong}. Correct it there.")
        rows.append(row_files.make_row(row["messages"], *(row.get(name, "") for name in ("task_type", "source", "tools", "group"))))
    if not rows:
        raise BadInput(f"curate.test_set {path} has no rows. Put in as many as the gates need, or leave curate.test_set out.")
    rows.sort(key=lambda row: (row["id"], row["source"], row["task_type"]))
    pairs = [(i, j) for i, j, _ in similar_pairs([row_files.similarity_text(row) for row in rows], threshold)]
    return with_clusters(rows, pairs + group_edges(rows))


def resembling_test_set(rows: list[dict], test: list[dict], threshold: float) -> dict[int, tuple[str, int]]:
    """Drop rows that resemble, or share a group with, a row of the user's own test set, of which nothing is dropped.

    Gives {place in rows: (reason, place in test of the first that it resembles)}.
    """
    owner: dict[str, int] = {}
    for j, row in enumerate(test):
        if row.get("group"):
            owner.setdefault(row["group"], j)
    dropped = {i: ("same group as the test set", owner[row["group"]]) for i, row in enumerate(rows) if row.get("group") in owner}
    pairs = similar_to([row_files.similarity_text(row) for row in rows], [row_files.similarity_text(row) for row in test], threshold)
    return dropped | {i: ("near-duplicate of the test set", j) for i, j in reversed(pairs)}


def shuffled(rows: list[dict], seed: int) -> list[int]:
    """Order places by a hash of seed and row id."""
    return sorted(range(len(rows)), key=lambda i: sha256(f"{seed}:{rows[i]['id']}".encode()))


def refuse_large_cluster(rows: list[dict], config: Curate) -> int:
    """Refuse rows of which one cluster is most; give the size of the largest."""
    sizes = Counter(row["cluster"] for row in rows)
    if not sizes:
        return 0
    cluster, size = max(sizes.items(), key=lambda entry: (entry[1], entry[0]))
    if size > 1 and size > config.max_cluster_share * len(rows) and len(rows) >= config.min_train_rows:
        first = next(row for row in rows if row["id"] == cluster)["messages"]
        question = next(turn["content"] for turn in first if turn["role"] == "user")
        raise BadInput(
            f"One cluster of near-duplicates holds {size:,} of {len(rows):,} rows ({size / len(rows):.0%}; curate.max_cluster_share is "
            f"{config.max_cluster_share:.0%}): {cluster[:12]}, with the row '{question[:120]}'. It cannot be split fairly. "
            "Bring more varied rows, or raise curate.cluster_jaccard."
        )
    return size


def refuse_few_rows(parts: dict[str, list[dict]], config: Curate, reasons: Counter) -> None:
    """Refuse a split with too little to train on, or nothing to judge by."""
    left = len(parts["train"])
    if left < config.min_train_rows:
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
        raise BadInput(
            f"Only {left:,} training rows are left after curation; a fine-tune needs at least {config.min_train_rows:,} "
            f"(curate.min_train_rows). {len(parts['test']):,} are test, {len(parts['dev']):,} dev"
            f"{f'; dropped: {why}' if why else ''}. Bring more rows; see rejected.jsonl."
        )
    for name in ("test", "dev"):
        if not parts[name]:
            raise BadInput(f"No row is left for {name}: the rows form too few clusters. Bring more varied rows; see rejected.jsonl.")


def _take(wanted: int, order: list[str], members: dict, rows: list[dict], reserved: set[str]) -> list[str]:
    """Choose clusters of `wanted` rows in all: small ones in turns of task types first, then whatever is left."""
    taken: dict[str, None] = {}
    count = 0
    for largest, withheld in ((LARGE_CLUSTER_ROWS, reserved), (LARGE_CLUSTER_ROWS, set()), (None, set())):
        queues = defaultdict(deque)
        for cluster in order:
            if cluster not in taken and cluster not in withheld:
                queues[_task_type(cluster, members, rows)].append(cluster)
        turns = deque(queues)
        while turns and count < wanted:
            queue = queues[turns[0]]
            turns.rotate(-1)
            if not queue:
                turns.pop()
                continue
            cluster = queue.popleft()
            size = len(members[cluster])
            if largest is None or size <= min(largest, wanted - count):
                taken[cluster] = None
                count += size
    return list(taken)


def _reserved(order: list[str], members: dict, rows: list[dict]) -> set[str]:
    """Keep half of each task type's clusters, rounded up, for train: a type that train lacks cannot be learned."""
    by_type = defaultdict(list)
    for cluster in order:
        by_type[_task_type(cluster, members, rows)].append(cluster)
    return {cluster for clusters in by_type.values() for cluster in clusters[len(clusters) // 2 :]}


def _task_type(cluster: str, members: dict, rows: list[dict]) -> str:
    """Give the most frequent task type of a cluster."""
    counts = Counter(rows[i]["task_type"] for i in members[cluster])
    return max(counts.items(), key=lambda entry: (entry[1], entry[0]))[0]
