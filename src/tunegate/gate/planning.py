"""Say before anything is trained whether the items that will be there can answer what the policy asks.

Before the first run neither the spread nor the clusters are known, so both are assumed, and said: scores of 0 or 1, half of the
pairs discordant, every item a cluster of its own. Real pairs differ less often, which helps, and items hang together, which does
not; the verdict has the measured figures.
"""

import difflib
import math
from dataclasses import dataclass, field

from tunegate import tasks
from tunegate.errors import BadInput
from tunegate.gate import stats
from tunegate.gate.policy import SERVING, Gate, Policy
from tunegate.recipe import Recipe

ARMS = ("base_zero_shot", "base_few_shot", "champion", "adapter")  # that a gate may compare the candidate with
DISCORDANT = 0.5  # share of pairs on which two arms differ; the widest that is common
ASSUMED = f"if {DISCORDANT:.0%} of pairs differ and every item is its own cluster"


@dataclass(frozen=True)
class Sizes:
    """How many items will be there; None where a later step will know."""

    test: int | None
    test_source: str  # where the number comes from
    general: int | None


@dataclass
class Outlook:
    """What can be said of a policy before the first run."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_policy(recipe: Recipe, sizes: Sizes, suites: set[str] | None = None, maybe_champion: bool = True) -> Outlook:
    """Compare the policy with what will be measured.

    Args:
        suites: the metrics of the recipe's suites; None where a later step reads what they ask.
        maybe_champion: without one its gates are skipped, and nothing is foreseen of them.

    Raises:
        BadInput: a gate names what no step measures, or asks for more items than there will be: it could never pass.
    """
    policy, found = recipe.policy, Outlook()
    for gate in policy.gates:
        _refuse_unmeasured(recipe, suites, f"Gate '{gate.id}'", gate.metric, gate.versus)
        items, source = _items(recipe, sizes, gate.metric)
        if items is None:
            continue
        if items < (needed := max(gate.min_n, gate.min_clusters)):
            raise BadInput(f"Gate '{gate.id}' needs {needed} items, and {source}. It could never pass: give it more items.")
        if gate.versus != "champion" or maybe_champion:
            _foresee(gate, policy, items, found)
    if policy.slices is not None:
        _refuse_unmeasured(recipe, suites, "The policy, in slices,", policy.slices.metric, policy.slices.versus)
        items, source = _items(recipe, sizes, policy.slices.metric)
        if items is not None and items < policy.slices.min_n:
            found.warnings.append(f"Slices of fewer than {policy.slices.min_n} items are not tested, and {source}: there will be no alarm.")
    rows, least = recipe.curate.max_train_rows, policy.preconditions.min_train_rows
    if rows is not None and rows < least:
        raise BadInput(f"curate.max_train_rows is {rows}, and the policy asks for at least {least} training rows.")
    return found


def _refuse_unmeasured(recipe: Recipe, suites: set[str] | None, who: str, metric: str, versus: str | None) -> None:
    if versus is not None and versus not in ARMS:
        raise BadInput(f"{who} compares with '{versus}', which no step measures. Known: {', '.join(ARMS)}.")
    if (versus == "adapter" or metric == "parity/same_as_adapter") and (why := _no_adapter(recipe)):
        raise BadInput(f"{who} compares with the unmerged adapter, and {why}. It could never pass: remove it, or mend the recipe.")
    if metric.startswith("general/") and not recipe.evaluate.general_text:
        raise BadInput(f"{who} needs {metric}; set evaluate.general_text to a JSONL file of held general text.")
    known = measured(recipe, suites)
    if metric in known or f"{metric.partition('/')[0]}/*" in known:
        return
    nearest = difflib.get_close_matches(metric, known, n=1)
    hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Known: {', '.join(sorted(known))}."
    raise BadInput(f"{who} asks for {metric}, which no step measures. {hint}")


def _no_adapter(recipe: Recipe) -> str:
    """Say why evaluation will not measure the arm adapter; empty where it will."""
    if not recipe.evaluate.adapter:
        return "evaluate.adapter is false"
    if recipe.sft.method == "full":
        return "sft.method is full, which leaves none"
    return "no server applies sft.lora.use_dora unmerged" if recipe.sft.lora.use_dora else ""


def measured(recipe: Recipe, suites: set[str] | None = None) -> set[str]:
    """Name the metrics that a run of this recipe measures; `<what>/*` where a later step knows the measures."""
    known = {f"serve/{column}" for column in SERVING} | {"general/nats_per_token", "parity/same_prompt", "parity/same_as_adapter"}
    known |= {"judge/win", "judge/flip"} if recipe.evaluate.judge.url else set()
    known |= {f"{suite.name}/*" for suite in recipe.evaluate.suites} if suites is None else suites
    return known | tasks.metrics_of(recipe.task)


def _items(recipe: Recipe, sizes: Sizes, metric: str) -> tuple[int | None, str]:
    """Give how many items a metric is measured on, and where that number comes from."""
    what = metric.partition("/")[0]
    if what == "general":
        return sizes.general, f"evaluate.general_text has {sizes.general} texts"
    if metric == "serve/first_token_seconds":
        timed = recipe.evaluate.timed_requests
        return timed if sizes.test is None else min(timed, sizes.test), f"evaluate.timed_requests is {timed}"
    if what in ("task", "serve", "parity"):
        return sizes.test, sizes.test_source
    return None, f"evaluate will know how many items {what} has"


def _foresee(gate: Gate, policy: Policy, items: int, found: Outlook) -> None:
    """Say what a gate on scores of 0 or 1 can see with so many items; of other scores the spread is not known."""
    if gate.metric.startswith(("general/", "serve/")) or gate.metric.endswith("nats_per_token") or gate.statistic != "mean":
        return
    if gate.versus == "adapter":
        return  # two forms of one model differ on far fewer pairs than is assumed here
    if gate.test in ("superiority", "noninferiority"):
        _foresee_difference(gate, policy, items, found)
    elif gate.test == "absolute_lcb":
        share = gate.at_least if gate.at_least is not None else 1 - gate.at_most
        # the lower bound of n successes in n trials; "the rule of three" for their failures
        if 0 < share < 1 and stats.clopper_pearson(items, items, policy.alpha)[0] < share:
            found.warnings.append(
                f"Gate '{gate.id}' could not pass on {items} items even without a single failure. "
                f"{math.ceil(math.log(policy.alpha) / math.log(share)):,} would do, if none fails and every item is its own cluster."
            )


def _foresee_difference(gate: Gate, policy: Policy, items: int, found: Outlook) -> None:
    seen = stats.planned_mde(items, DISCORDANT**0.5, policy.alpha, policy.power)
    needed = seen + gate.margin if gate.test == "superiority" else seen - gate.margin
    true = f"true gain of {needed:.3f}" if needed >= 0 else f"true loss of {-needed:.3f}"
    text = f"{true} passes with power {policy.power:g} on {items} items, if {DISCORDANT:.0%} of pairs differ"
    found.facts.append((f"gate {gate.id}", text))
    wanted = gate.mde_max if gate.mde_max is not None else gate.margin if gate.test == "noninferiority" else 0
    if not 0 < wanted < seen:
        return
    what = f"wants to see {wanted:g} (mde_max)" if gate.mde_max is not None else f"allows a loss of {wanted:g}"
    end = "INCONCLUSIVE" if gate.mde_max is not None else "REJECT"
    enough = stats.required_items(wanted, DISCORDANT**0.5, policy.alpha, policy.power)
    found.warnings.append(
        f"Gate '{gate.id}' {what}, and {items} items show no less than {seen:.3f}, {ASSUMED}. Too small: without a {true} it would "
        f"likely end {end}. {enough:,} items would do."
    )
