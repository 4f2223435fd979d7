"""Say on dev, before any training money is spent, whether prompting alone is good enough."""

import numpy as np

from tunegate.errors import BadInput
from tunegate.gate import stats
from tunegate.gate.measures import kind_of
from tunegate.gate.policy import Policy
from tunegate.gate.verdict import evidence
from tunegate.gate.wording import shown


def worth_training(policy: Policy | dict, dev_items) -> tuple[bool, dict]:
    """Say whether prompting leaves something to gain, and on what figures, from the base arms on dev.

    Prompting is sufficient when the lower bound of the best arm reaches the policy's target. The best arm is picked on the
    items that judge it, so alpha is split over the arms (Bonferroni).

    Raises:
        BadInput: the policy's metric was not measured on dev.
    """
    policy = policy if isinstance(policy, Policy) else Policy.model_validate(policy)
    rule = policy.preconditions.prompting_sufficient
    if rule is None:
        return True, {"reason": "The policy does not ask whether prompting is sufficient."}
    table = evidence(dev_items)
    dev = table[(table["split"] == "dev") & (table["metric"] == rule.metric) & table["arm"].str.startswith("base_")]
    if dev.empty or not np.isfinite(dev["score"]).all():
        raise BadInput(f"The dev results hold no usable '{rule.metric}' of a base arm, so whether to train is unknown. Run baseline again.")
    kind = kind_of(dev["score"])
    means = dev.groupby("arm")["score"].mean()
    best = sorted(means.index, key=lambda arm: (-means[arm], arm))[0]
    rows = dev[dev["arm"] == best]
    try:
        bound = stats.mean(rows["score"].to_numpy(), rows["cluster_id"].to_numpy()).bounds(policy.alpha / len(means))[0]
    except stats.NoSpread as error:
        raise BadInput(f"'{rule.metric}' of {best} on dev cannot be bounded: {error}. Raise curate.dev_rows.") from None
    enough = bound >= rule.target
    reason = (
        f"Prompting alone ({best}) reaches {shown(means[best], kind)} {rule.metric} on {len(rows)} dev items; its lower bound "
        f"{shown(bound, kind)} {'reaches' if enough else 'is below'} the target of {shown(rule.target, kind)}."
    )
    return not enough, {
        "arm": best, "metric": rule.metric, "n": len(rows), "mean": float(means[best]), "bound": float(bound), "target": rule.target,
        "prompting_sufficient": bool(enough), "reason": reason,
    }  # fmt: skip
