"""Match the items that a gate judges: the same ones in both arms, in the same order, with their clusters."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tunegate.gate.measures import CANDIDATE, KEY
from tunegate.gate.policy import Gate
from tunegate.gate.verdict import Unusable
from tunegate.tasks.text import as_label


@dataclass(frozen=True)
class Paired:
    """Two arms' scores of the same items in the same order, and the items' clusters; for macro-F1 also labels."""

    candidate: np.ndarray
    versus: np.ndarray | None
    clusters: np.ndarray
    labels: tuple[np.ndarray, ...] = ()  # expected, the candidate's, and the other arm's where there is one


def paired(gate: Gate, held: pd.DataFrame) -> Paired:
    """Give the results of both arms on the same items in the same order.

    Raises:
        Unusable: something is missing, too few, or not the same in both arms; the sentence says what.
    """
    rows = held[held["metric"] == gate.metric]
    arms = {arm: part.set_index(KEY) for arm, part in rows.groupby("arm")}
    for arm in (CANDIDATE, gate.versus):
        if arm is not None and arm not in arms:
            raise Unusable(f"there is no '{gate.metric}' of the arm {arm}")
    everything = set(rows.set_index(KEY).index)
    for arm in filter(None, (CANDIDATE, gate.versus)):
        if missing := len(everything - set(arms[arm].index)):
            raise Unusable(f"the arm {arm} lacks {missing} of {len(everything)} items, so the arms are not measured on the same ones")
    candidate = arms[CANDIDATE].sort_index()
    clusters = candidate["cluster_id"].to_numpy()
    if (clusters == "").any():
        raise Unusable(f"{(clusters == '').sum()} items have no cluster, so their dependence is unknown")
    if len(candidate) < gate.min_n:
        raise Unusable(f"{len(candidate)} items are fewer than the {gate.min_n} that the policy asks for")
    if (count := len(set(clusters))) < gate.min_clusters:
        raise Unusable(f"{count} clusters are fewer than the {gate.min_clusters} that the policy asks for")
    if gate.versus is None:
        return Paired(candidate["score"].to_numpy(), None, clusters, _labels(gate, candidate))
    versus = arms[gate.versus].reindex(candidate.index)
    if (versus["cluster_id"].to_numpy() != clusters).any():
        raise Unusable(f"items belong to other clusters in the arm {gate.versus} than in the arm {CANDIDATE}")
    general = candidate.index.get_level_values("split") == "general"
    if (versus["prompt_hash"].to_numpy() != candidate["prompt_hash"].to_numpy())[general].any():
        raise Unusable(f"the arms {CANDIDATE} and {gate.versus} were given different general texts under the same item")
    return Paired(candidate["score"].to_numpy(), versus["score"].to_numpy(), clusters, _labels(gate, candidate, versus))


def _labels(gate: Gate, *arms: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Give the expected labels and each arm's answers, read as tunegate.tasks reads labels; nothing where the gate needs none."""
    if gate.statistic != "macro_f1":
        return ()
    expected, *others = (arm["expected"].map(as_label).to_numpy() for arm in arms)
    if (expected == "").any():
        raise Unusable(f"{(expected == '').sum()} items have no expected answer, without which there is no macro-F1")
    if any((other != expected).any() for other in others):
        raise Unusable(f"items have other expected answers in the arm {gate.versus} than in the arm {CANDIDATE}")
    return expected, *(arm["output"].map(as_label).to_numpy() for arm in arms)
