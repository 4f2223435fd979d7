"""Choose training rows: a band of difficulty and score, and from it the most varied rows, not the top ones.

Rows at the bottom teach nothing, and those at the top of IFD are mostly wrong: the answer is not its question's. What is
left inside the band is all good enough; where fewer rows are wanted, variety decides (DEITA, Liu et al. 2024, section 2.4).
Nothing here depends on the order of the rows.
"""

import heapq
from collections import Counter, defaultdict, deque

from tunegate.digests import sha256
from tunegate.recipe import Curate, Quality

UNSCORED = 3  # the group beside the thirds 0, 1 and 2


def outside_band(rows: list[dict], ifd: dict[str, float], scores: dict[str, int], quality: Quality) -> dict[int, str]:
    """Give {place: reason} of the rows below the judge's minimum, at or above max_ifd, and lowest in IFD of their task type.

    By task type, because IFD differs from one form of answer to another: over all types, the lowest rows may be a whole type.

    Args:
        ifd: by row id; a row without one is in the band.
        scores: the judge's, by row id; likewise.
    """
    settings = quality.ifd
    dropped: dict[int, str] = {}
    scored = defaultdict(list)
    for i, row in enumerate(rows):
        if scores.get(row["id"], 5) < quality.judge.min_score:
            dropped[i] = f"judge's score below {quality.judge.min_score}"
        elif ifd.get(row["id"], 0.0) >= settings.max_ifd:
            dropped[i] = f"IFD {settings.max_ifd:g} or more: the question does not help to the answer"
        elif row["id"] in ifd:
            scored[row["task_type"]].append(i)
    for places in scored.values():
        count = int(settings.drop_lowest * len(places) + 1e-9)  # 0.29 * 100 is a little less than 29
        for i in sorted(places, key=lambda i: (ifd[rows[i]["id"]], rows[i]["id"]))[:count]:
            dropped[i] = f"among the lowest {settings.drop_lowest:.0%} of IFD of its task type"
    return dropped


def over_max_rows(rows: list[dict], ifd: dict[str, float], config: Curate) -> dict[int, str]:
    """Give {place: reason} of the rows beyond config.max_train_rows; task types take turns, as they do for test."""
    if config.max_train_rows is None or len(rows) <= config.max_train_rows:
        return {}
    turns = []
    for task_type, places in by_task_type(rows).items():
        order = by_variety(rows, places, ifd, config.seed)
        turns += [(turn, _hash(config.seed, task_type), i) for turn, i in enumerate(order)]
    return {i: f"over max_train_rows ({config.max_train_rows:,})" for _, _, i in sorted(turns)[config.max_train_rows :]}


def by_task_type(rows: list[dict]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for i, row in enumerate(rows):
        found[row["task_type"]].append(i)
    return found


def by_variety(rows: list[dict], places: list[int], ifd: dict[str, float], seed: int) -> list[int]:
    """Order places so that any beginning of the order holds thirds of IFD alike, and as many clusters as it can.

    Thirds take turns; rows without IFD are a fourth group, which gets turns by its size. Each turn takes a row of the
    cluster that has been taken from least, and among such by a hash of seed and row id.
    """
    groups = {group: _Group(rows, members, seed) for group, members in sorted(_thirds(rows, places, ifd).items())}
    used: Counter = Counter()
    order = []
    for _ in places:
        group = min(groups, key=lambda g: ((groups[g].taken + 1) / groups[g].size, g))
        order.append(groups[group].take(used))
        if groups[group].taken == groups[group].size:
            del groups[group]
    return order


def _thirds(rows: list[dict], places: list[int], ifd: dict[str, float]) -> dict[int, list[int]]:
    """Part places into thirds of low, middle and high IFD, and those that have none."""
    scored = sorted((i for i in places if rows[i]["id"] in ifd), key=lambda i: (ifd[rows[i]["id"]], rows[i]["id"]))
    found = defaultdict(list)
    for rank, i in enumerate(scored):
        found[rank * 3 // len(scored)].append(i)
    for i in places:
        if rows[i]["id"] not in ifd:
            found[UNSCORED].append(i)
    return found


class _Group:
    """Places to be taken one by one, each time of the cluster least used.

    The heap holds each cluster once, with the uses it had when it was put there. Uses only grow, so an entry that is out of
    date stands too far in front, never too far behind: it is put back when it is met.
    """

    def __init__(self, rows: list[dict], places: list[int], seed: int):
        self.size, self.taken = len(places), 0
        self._queues = defaultdict(deque)
        for key, i in sorted((_hash(seed, rows[i]["id"]), i) for i in places):
            self._queues[rows[i]["cluster"]].append((key, i))
        self._heap = [(0, queue[0][0], cluster) for cluster, queue in self._queues.items()]
        heapq.heapify(self._heap)

    def take(self, used: Counter) -> int:
        while True:
            uses, key, cluster = heapq.heappop(self._heap)
            if uses == used[cluster]:
                break
            heapq.heappush(self._heap, (used[cluster], key, cluster))
        queue = self._queues[cluster]
        _, i = queue.popleft()
        used[cluster] += 1
        self.taken += 1
        if queue:
            heapq.heappush(self._heap, (used[cluster], queue[0][0], cluster))
        return i


def _hash(seed: int, name: str) -> str:
    return sha256(f"{seed}:{name}".encode())
