"""Give whole clusters to train, dev and test, in an order that depends on nothing but the seed and the rows themselves."""

from collections import Counter, defaultdict, deque

from tunegate.digests import sha256
from tunegate.errors import BadInput
from tunegate.recipe import Curate

LARGE_CLUSTER_ROWS = 6  # larger ones teach more than they test: one cluster is one independent observation; arbitrary


def assign(rows: list[dict], config: Curate) -> list[str]:
    """Name for each row its part: "test", "dev" or "train".

    Task types take turns, so that each is in test and dev; at most half of a type's clusters leave train, and large clusters
    stay there, as long as the wanted sizes can be reached that way.
    """
    members = defaultdict(list)
    for i, row in enumerate(rows):
        members[row["cluster"]].append(i)
    order = sorted(members, key=lambda cluster: sha256(f"{config.seed}:{cluster}".encode()))
    side = ["train"] * len(rows)
    free = dict.fromkeys(order)  # an ordered set
    for part, wanted in (("test", config.test_rows), ("dev", config.dev_rows)):
        for cluster in _take(wanted, list(free), members, rows, _reserved(order, members, rows)):
            del free[cluster]
            for i in members[cluster]:
                side[i] = part
    return side


def shuffled(rows: list[dict], seed: int) -> list[int]:
    """Order places by a hash of seed and row id."""
    return sorted(range(len(rows)), key=lambda i: sha256(f"{seed}:{rows[i]['id']}".encode()))


def spread(rows: list[dict], order: list[int]) -> list[int]:
    """Reorder so that every cluster's first row comes before any cluster's second: a cut then costs the least variety."""
    met = Counter()
    rounds = []
    for i in order:
        rounds.append(met[rows[i]["cluster"]])
        met[rows[i]["cluster"]] += 1
    return [i for _, i in sorted(zip(rounds, order, strict=True), key=lambda entry: entry[0])]


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
