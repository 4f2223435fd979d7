"""Cap the share of each task type among the training rows, and keep its difficulty as it was: thirds of IFD alike."""

from tunegate.curate.select import by_task_type, by_variety
from tunegate.errors import BadInput
from tunegate.recipe import Curate


def over_share(rows: list[dict], ifd: dict[str, float], config: Curate) -> dict[int, str]:
    """Give {place: reason} of the rows by which a task type exceeds config.balance.max_share of the rows that stay.

    Args:
        ifd: by row id; used where config.balance.difficulty is set.

    Raises:
        BadInput: there are too few task types for any rows to satisfy the share.
    """
    share = config.balance.max_share
    types = by_task_type(rows)
    if share == 1 or not rows:
        return {}
    if share * len(types) < 1 - 1e-9:
        names = ", ".join(repr(name) for name in sorted(types)[:5]) + (", …" if len(types) > 5 else "")
        least = 1 / len(types)
        raise BadInput(
            f"curate.balance.max_share is {share:g}, but the rows have only these task types: {names}. One of {len(types)} has "
            f"{least:.0%} or more, whatever goes. Set it above {least:.2f}, or give the rows a task_type."
        )
    cap = _cap([len(places) for places in types.values()], share)
    known = ifd if config.balance.difficulty else {}
    return {
        i: f"task type {task_type!r} over balance.max_share ({share:.0%})"
        for task_type, places in types.items()
        if len(places) > cap
        for i in by_variety(rows, places, known, config.seed)[cap:]
    }


def _cap(sizes: list[int], share: float) -> int:
    """Find the largest cap c for which no type exceeds its share once every type is cut to c rows.

    share * sum(min(size, c)) - c is concave in c and 0 at c = 0, so the caps that do are those up to the one sought.
    """
    low, high = 0, max(sizes)
    while low < high:
        cap = (low + high + 1) // 2
        kept = [min(size, cap) for size in sizes]
        low, high = (cap, high) if max(kept) <= share * sum(kept) + 1e-9 else (low, cap - 1)
    return low
