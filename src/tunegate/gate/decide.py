"""Decide: a pure function of a policy, per-item results and a few facts. It reads no file, no clock and no environment.

    ERROR             the evidence cannot be judged: something is missing, not a number, short, unequal, unpaired or mixed up
    REJECT            a required gate or a precondition fails
    INCONCLUSIVE      what fails could not have been seen with so few items (policy: mde_max)
    HOLD              everything passes, and the gain is too good to be true: look for a leak
    DO_NOT_FINE_TUNE  nothing was trained, because prompting alone is good enough
    PROMOTE           every required gate passes

What comes first in this list wins. Missing data is never a pass.
"""

import numpy as np
import pandas as pd

from tunegate.errors import BadInput
from tunegate.gate.judge import judge
from tunegate.gate.measures import CANDIDATE, FEW_SHOT, KEY, ZERO_SHOT, measures, with_serving_metrics
from tunegate.gate.policy import Policy
from tunegate.gate.verdict import Unusable, evidence, statement
from tunegate.gate.worth import worth_training

# Few-shot prompts that may equal the zero-shot ones, because the item leaves no room for examples; arbitrary.
MAX_BARE_SHARE = 0.05


def decide(policy: Policy, items, facts: dict) -> dict:
    """Judge a candidate and give the verdict.

    Args:
        items: results of all arms, one row per arm, item and metric (see tunegate.results).
        facts: what the items do not say: `trained` (bool), `train_rows` and `leaked_pairs` (None where unknown), `arms` (arms.json
            of baseline and evaluate together), `subject` (references of what is judged), `model` (its reference, where there is
            one), and more to be recorded (recipe, data).
    """
    try:
        table = evidence(items)
    except Unusable as error:
        return statement(policy, facts, "ERROR", [str(error)], {"gates": [], "measures": []}, pd.DataFrame())
    bad_rows = _bad_rows(table)
    if not facts["trained"]:
        return _without_training(policy, table, facts, bad_rows)
    held = with_serving_metrics(table[table["split"] != "dev"])
    problems = bad_rows or _problems(policy, held, facts)
    failures = _failed_preconditions(policy, facts)
    gates = [] if problems else [judge(gate, policy, held) for gate in policy.gates]
    measured = [] if problems else measures(held)
    decision, reasons = _conclude(problems, failures, gates)
    return statement(policy, facts, decision, reasons, {"gates": gates, "measures": measured}, table)


def _bad_rows(table: pd.DataFrame) -> list[str]:
    said = []
    if bad := int((~np.isfinite(table["score"])).sum()):
        said.append(f"{bad} of {len(table)} scores are missing or not numbers.")
    if repeated := int(table.duplicated(["arm", "metric", *KEY]).sum()):
        said.append(f"{repeated} results appear twice; one arm has one score per item and metric.")
    return said


def _problems(policy: Policy, held: pd.DataFrame, facts: dict) -> list[str]:
    """Say everything that makes the evidence as a whole unfit to be judged."""
    said = []
    for name in ("train_rows", "leaked_pairs"):
        if facts.get(name) is None:
            said.append(f"The curation does not say {name}, which a precondition of the policy needs.")
    used = [CANDIDATE, *sorted({gate.versus for gate in policy.gates if gate.versus})]
    arms = facts["arms"]
    if absent := [arm for arm in used if not arms.get(arm, {}).get("engine")]:
        said.append(f"arms.json does not say which engine served {', '.join(absent)}.")
    for field, what in (("engine", "engines"), ("sampling", "sampling settings")):
        settings = {arm: arms[arm].get(field) for arm in used if arm in arms}
        if any(setting != settings[CANDIDATE] for setting in settings.values() if CANDIDATE in settings):
            told = "; ".join(f"{arm}: {' '.join(f'{k} {v}' for k, v in (s or {}).items()) or 'none'}" for arm, s in settings.items())
            said.append(f"The arms were served with different {what} ({told}), so a difference may be the server's.")
    evaluated, judged = arms.get(CANDIDATE, {}).get("model_digest", ""), (facts.get("model") or "").rpartition("/")[2]
    if judged and evaluated != judged:
        said.append(
            f"The candidate that was evaluated is the model {evaluated[:12] or '(unknown)'}, and the one to be judged is {judged[:12]}: "
            "what was measured is not what would be served."
        )
    task = held[held["split"] == "test"].drop_duplicates(["arm", *KEY])
    prompts = {arm: part.set_index("item_id")["prompt_hash"] for arm, part in task.groupby("arm")}
    for arm, hashes in prompts.items():
        if (hashes == "").any():
            said.append(f"{int((hashes == '').sum())} items of {arm} have no prompt hash, so what was asked is unknown.")
    if FEW_SHOT in prompts and ZERO_SHOT in prompts:
        both = prompts[FEW_SHOT].index.intersection(prompts[ZERO_SHOT].index)
        same = int((prompts[FEW_SHOT][both] == prompts[ZERO_SHOT][both]).sum())
        if same > MAX_BARE_SHARE * len(both):
            said.append(f"{same} of {len(both)} few-shot prompts are the zero-shot prompts: that arm got no examples.")
    return said


def _failed_preconditions(policy: Policy, facts: dict) -> list[str]:
    rules, said = policy.preconditions, []
    if facts.get("train_rows") is not None and facts["train_rows"] < rules.min_train_rows:
        said.append(f"{facts['train_rows']} training rows are fewer than the {rules.min_train_rows} that the policy asks for.")
    if facts.get("leaked_pairs") is not None and facts["leaked_pairs"] > rules.max_leaked_pairs:
        said.append(
            f"{facts['leaked_pairs']} near-duplicate pairs straddle the split, and the policy allows {rules.max_leaked_pairs}: "
            "the model may have learnt answers of the test."
        )
    return said


def _conclude(problems: list[str], failures: list[str], gates: list[dict]) -> tuple[str, list[str]]:
    required = [gate for gate in gates if gate["required"]]

    def reasons(*outcomes):
        return [gate["reason"] for gate in required if gate["outcome"] in outcomes]

    if problems or reasons("error"):
        return "ERROR", problems + reasons("error")
    if failures or reasons("failed"):
        return "REJECT", failures + reasons("failed", "inconclusive", "held")
    if reasons("inconclusive"):
        return "INCONCLUSIVE", reasons("inconclusive", "held")
    if reasons("held"):
        return "HOLD", reasons("held")
    return "PROMOTE", reasons("passed")


def _without_training(policy: Policy, table: pd.DataFrame, facts: dict, bad_rows: list[str]) -> dict:
    nothing = {"gates": [], "measures": [] if bad_rows else measures(with_serving_metrics(table))}
    if bad_rows:
        return statement(policy, facts, "ERROR", bad_rows, nothing, table)
    try:
        worth, found = worth_training(policy, table)
    except BadInput as error:
        return statement(policy, facts, "ERROR", [f"No candidate was evaluated. {error}"], nothing, table)
    if worth:
        reason = f"No candidate was evaluated, although training was worth it. {found['reason']} Run evaluate, then the gate again."
        return statement(policy, facts, "ERROR", [reason], nothing | {"prompting": found}, table)
    return statement(policy, facts, "DO_NOT_FINE_TUNE", [found["reason"]], nothing | {"prompting": found}, table)
