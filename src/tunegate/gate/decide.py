"""Decide: a pure function of a policy, per-item results and a few facts. It reads no file, no clock and no environment.

    ERROR             the evidence cannot be judged: something is missing, not a number, short, unequal, unpaired or mixed up
    REJECT            a required gate, a precondition or (where the policy says so) a slice fails
    INCONCLUSIVE      what fails could not have been seen with so few items (policy: mde_max)
    HOLD              everything passes, and the gain is too good to be true: look for a leak
    DO_NOT_FINE_TUNE  nothing was trained, because prompting alone is good enough
    PROMOTE           every required gate passes

What comes first in this list wins. Missing data is never a pass: a gate is skipped in one case only, a comparison with the champion
where none serves, and a candidate is not promoted on skipped gates alone.
"""

import pandas as pd

from tunegate.errors import BadInput
from tunegate.gate.fitness import bad_rows, problems
from tunegate.gate.judge import judge
from tunegate.gate.measures import CHAMPION, measures, with_serving_metrics
from tunegate.gate.policy import Gate, Policy
from tunegate.gate.preconditions import failed_preconditions, warnings
from tunegate.gate.slices import judge_slices
from tunegate.gate.verdict import Unusable, evidence, statement
from tunegate.gate.worth import worth_training

NOTHING = {"gates": [], "slices": [], "warnings": [], "measures": []}


def decide(policy: Policy, items, facts: dict) -> dict:
    """Judge a candidate and give the verdict.

    Args:
        items: results of all arms, one row per arm, item and metric (see tunegate.results).
        facts: what the items do not say. `trained` (bool); `train_rows`, `leaked_pairs` and `stop_token_in_loss` (share of the
            training examples), None where unknown; `arms` (arms.json of all results together); `subject` (references of what is
            judged); `model` (its reference, where there is one); `champion` (reference of the model that serves now, None where
            there is none or it is the judged one); `sealed_test` ({"sha256", "items", "use"}: `use` is the number of this candidate
            among all that were measured on it); and more to be recorded (recipe, inputs).
    """
    try:
        table = evidence(items)
    except Unusable as error:
        return statement(policy, facts, "ERROR", [str(error)], NOTHING, pd.DataFrame())
    unfit = bad_rows(table)
    if not facts["trained"]:
        return _without_training(policy, table, facts, unfit)
    held = with_serving_metrics(table[table["split"] != "dev"])
    unfit = unfit or problems(policy, held, facts)
    if unfit:
        return statement(policy, facts, "ERROR", unfit, NOTHING, table)
    gates = [_judge(gate, policy, held, facts) for gate in policy.gates]
    slices, unsliced = _slices(policy, held, facts)
    decision, reasons = _conclude(policy, unsliced, failed_preconditions(policy, facts), gates, slices)
    findings = {"gates": gates, "slices": slices, "warnings": warnings(policy, held, facts, slices), "measures": measures(held)}
    return statement(policy, facts, decision, reasons, findings, table)


def _judge(gate: Gate, policy: Policy, held: pd.DataFrame, facts: dict) -> dict:
    if gate.versus != CHAMPION or facts["champion"] is not None:
        return judge(gate, policy, held)
    keys = ("id", "metric", "test", "versus", "direction", "required", "margin", "at_most", "mde_max")
    result = {key: value for key in keys if (value := getattr(gate, key)) is not None}
    return result | {"passed": True, "outcome": "skipped", "reason": f"{gate.id}: there is no champion to compare with."}


def _slices(policy: Policy, held: pd.DataFrame, facts: dict) -> tuple[list[dict], list[str]]:
    """Give the findings of all slices, and why they could not be judged."""
    if policy.slices is None or (policy.slices.versus == CHAMPION and facts["champion"] is None):
        return [], []
    try:
        return judge_slices(policy, held), []
    except Unusable as error:
        return [], [str(error)]


def _conclude(policy: Policy, errors: list[str], failures: list[str], gates: list[dict], slices: list[dict]) -> tuple[str, list[str]]:
    required = [gate for gate in gates if gate["required"]]

    def reasons(*outcomes):
        return [gate["reason"] for gate in required if gate["outcome"] in outcomes]

    if not any(gate["outcome"] != "skipped" for gate in required if gate["test"] != "max_improvement"):
        errors = [
            *errors,
            "Every required gate compares with the champion, and there is none: nothing was proven. Add a gate against the base.",
        ]
    if errors or reasons("error"):
        return "ERROR", errors + reasons("error")
    if policy.slices is not None and policy.slices.action == "reject":
        failures = failures + [f"Slice {entry['reason']}" for entry in slices if entry["alarm"]]
    if failures or reasons("failed"):
        return "REJECT", failures + reasons("failed", "inconclusive", "held")
    if reasons("inconclusive"):
        return "INCONCLUSIVE", reasons("inconclusive", "held")
    if reasons("held"):
        return "HOLD", reasons("held")
    return "PROMOTE", reasons("passed") + reasons("skipped")


def _without_training(policy: Policy, table: pd.DataFrame, facts: dict, unfit: list[str]) -> dict:
    if unfit:
        return statement(policy, facts, "ERROR", unfit, NOTHING, table)
    findings = NOTHING | {"measures": measures(with_serving_metrics(table))}
    try:
        worth, found = worth_training(policy, table)
    except BadInput as error:
        return statement(policy, facts, "ERROR", [f"No candidate was evaluated. {error}"], findings, table)
    findings |= {"prompting": found}
    if worth:
        reason = f"No candidate was evaluated, although training was worth it. {found['reason']} Run evaluate, then the gate again."
        return statement(policy, facts, "ERROR", [reason], findings, table)
    return statement(policy, facts, "DO_NOT_FINE_TUNE", [found["reason"]], findings, table)
