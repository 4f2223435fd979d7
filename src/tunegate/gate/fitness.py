"""Say what makes evidence unfit to be judged as a whole: what is missing, not a number, or mixed up. Each is an ERROR.

Who must have been asked the same: candidate, adapter and champion on every item; they and the zero-shot base on every item that is
not the task's own. On the task's items the base is told more (`task.zero_shot_system`), which is fair and no mix-up.
"""

import numpy as np
import pandas as pd

from tunegate.gate.measures import ADAPTER, CANDIDATE, CHAMPION, FEW_SHOT, KEY, ZERO_SHOT, requests
from tunegate.gate.policy import SERVING, Policy
from tunegate.results import TASK_SPLITS

# Few-shot prompts that may equal the zero-shot ones, because the item leaves no room for examples; arbitrary.
MAX_BARE_SHARE = 0.05


def bad_rows(table: pd.DataFrame) -> list[str]:
    said = []
    if bad := int((~np.isfinite(table["score"])).sum()):
        said.append(f"{bad} of {len(table)} scores are missing or not numbers.")
    if repeated := int(table.duplicated(["arm", "metric", *KEY]).sum()):
        said.append(f"{repeated} results appear twice; one arm has one score per item and metric.")
    return said


def problems(policy: Policy, held: pd.DataFrame, facts: dict) -> list[str]:
    """Give a sentence for everything that is wrong with the facts, the arms, or what they were asked."""
    return _unknown(policy, facts) + _arms(policy, held, facts) + _prompts(held) + _counts(policy, held, facts)


def _unknown(policy: Policy, facts: dict) -> list[str]:
    """An unknown is never a pass."""
    rules, said = policy.preconditions, []
    for name, wanted in (("train_rows", rules.min_train_rows > 0), ("leaked_pairs", True)):
        if wanted and facts.get(name) is None:
            said.append(f"The curation does not say {name}, which a precondition of the policy needs.")
    if rules.min_stop_token_share > 0 and facts.get("stop_token_in_loss") is None:
        said.append(
            "The adapter does not say in how many of its training examples the end-of-turn token was in the loss, which a precondition "
            "of the policy needs (training.json, stop_token_in_loss)."
        )
    if rules.max_sealed_uses is not None and (facts.get("sealed_test") or {}).get("use") is None:
        said.append("The ledger does not say how many candidates this sealed test has judged, which a precondition of the policy needs.")
    if CHAMPION in policy.arms() and "champion" not in facts:
        said.append("The facts do not say which model is champion, and the policy compares with it.")
    return said


def _arms(policy: Policy, held: pd.DataFrame, facts: dict) -> list[str]:
    """Check who was measured, and on what."""
    arms, said = facts["arms"], []
    used = [CANDIDATE, *sorted(policy.arms() - ({CHAMPION} if facts.get("champion") is None else set()))]
    if absent := [arm for arm in used if not arms.get(arm, {}).get("engine")]:
        said.append(f"arms.json does not say which engine served {', '.join(absent)}.")
    for field, what in (("engine", "engines"), ("sampling", "sampling settings")):
        settings = {arm: arms[arm].get(field) for arm in used if arm in arms}
        if any(setting != settings[CANDIDATE] for setting in settings.values() if CANDIDATE in settings):
            told = "; ".join(f"{arm}: {' '.join(f'{k} {v}' for k, v in (s or {}).items()) or 'none'}" for arm, s in settings.items())
            said.append(f"The arms were served with different {what} ({told}), so a difference may be the server's.")
    said += _identities(held, facts)
    # Training changes neither the tokenizer nor the template, so all models of one base must have been asked through one template.
    templates = {arm: arms[arm].get("chat_template_sha256") for arm in (ZERO_SHOT, CANDIDATE, ADAPTER) if arm in arms}
    for arm, template in templates.items():
        if ZERO_SHOT in templates and (not template or template != templates[ZERO_SHOT]):
            said.append(
                f"The arm {arm} was served with the chat template {(template or '(unknown)')[:12]}, and the base, whose template it was "
                f"trained on, with {(templates[ZERO_SHOT] or '(unknown)')[:12]}."
            )
    return said


def _identities(held: pd.DataFrame, facts: dict) -> list[str]:
    said, measured = [], {arm: told.get("model_digest", "") for arm, told in facts["arms"].items()}
    evaluated, judged = measured.get(CANDIDATE, ""), digest_of(facts.get("model"))
    if judged and evaluated != judged:
        said.append(
            f"The candidate that was evaluated is the model {evaluated[:12] or '(unknown)'}, and the one to be judged is {judged[:12]}: "
            "what was measured is not what would be served."
        )
    champion = digest_of(facts.get("champion"))
    if champion and champion != measured.get(CHAMPION, champion):
        said.append(
            f"The arm champion is the model {measured[CHAMPION][:12]}, and the champion is {champion[:12]}: the candidate was compared "
            "with a model that does not serve. Run evaluate again."
        )
    if not champion and CHAMPION in set(held["arm"]):
        said.append("There are results of an arm champion, and the facts name no champion, so whose they are is unknown.")
    return said


def _prompts(held: pd.DataFrame) -> list[str]:
    """Check by their hashes what the arms were asked, metric by metric: a judge is asked something else about the same item."""
    said = []
    for arm, part in held[held["prompt_hash"] == ""].groupby("arm"):
        said.append(f"{part[KEY].drop_duplicates().shape[0]} items of {arm} have no prompt hash, so what was asked is unknown.")
    for split, part in held.groupby("split"):
        prompts = {arm: of_arm.set_index(["item_id", "metric"])["prompt_hash"] for arm, of_arm in part.groupby("arm")}
        for arm in (ADAPTER, CHAMPION) if split in TASK_SPLITS else (ADAPTER, CHAMPION, ZERO_SHOT):
            same, both = _same(prompts, CANDIDATE, arm)
            if same < both:
                said.append(
                    f"{both - same} of {both} prompts of {arm} on {split} are not those of {CANDIDATE}: it was asked another thing."
                )
        same, both = _same(prompts, FEW_SHOT, ZERO_SHOT) if split in TASK_SPLITS else (0, 0)
        if same > MAX_BARE_SHARE * both:
            said.append(f"{same} of {both} few-shot prompts are the zero-shot prompts: that arm got no examples.")
    return said


def _same(prompts: dict[str, pd.Series], one: str, other: str) -> tuple[int, int]:
    """Count the items with equal prompts, and the items that both arms have."""
    if one not in prompts or other not in prompts:
        return 0, 0
    both = prompts[one].index.intersection(prompts[other].index)
    equal = (prompts[one][both] == prompts[other][both]).groupby(level="item_id").all()
    return int(equal.sum()), len(equal)


def _counts(policy: Policy, held: pd.DataFrame, facts: dict) -> list[str]:
    """Check that nothing was cut off: all sealed items were asked, and what a gate names was measured in each request."""
    said, sealed = [], (facts.get("sealed_test") or {}).get("items")
    asked = requests(held)
    # the first token is timed on some requests only, by design, and gates say with min_n how many they need
    named = {f"serve/{column}": column for column in SERVING if column != "first_token_seconds"}
    needed = sorted({named[gate.metric] for gate in policy.gates if gate.metric in named})
    for arm, part in asked.groupby("arm"):
        if sealed is not None and len(part) != sealed:
            said.append(f"The arm {arm} was asked {len(part)} items of the sealed test, which has {sealed}.")
        for column in needed:
            if 0 < (missing := int(part[column].isna().sum())) < len(part):
                said.append(f"{missing} of {len(part)} requests of {arm} have no {column}, which a gate needs.")
    return said


def digest_of(reference: str | None) -> str:
    """Give the digest in a store reference (name/digest); empty where there is none."""
    return (reference or "").rpartition("/")[2]
