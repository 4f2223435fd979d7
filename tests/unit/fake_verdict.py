"""Verdicts of all six decisions on made-up results, judged by the real gate; and all that a verdict may hold, laid over one."""

from copy import deepcopy

from fake_run import answer_items, general_items, make_facts, make_items, make_rows

from tunegate import results
from tunegate.gate.decide import decide
from tunegate.gate.policy import Policy

WAIVER = {"who": "A. Turing", "reason": "the old model leaks addresses", "expires": "2026-12-24T00:00:00+00:00", "key": "0f" * 32}
GATES = [
    {"id": "beats_zero_shot", "metric": "task/exact", "versus": "base_zero_shot", "test": "superiority", "margin": 0.05},
    {"id": "beats_few_shot", "metric": "task/exact", "versus": "base_few_shot", "test": "superiority", "margin": 0.02, "mde_max": 0.08},
    {"id": "too_good", "metric": "task/exact", "versus": "base_few_shot", "test": "max_improvement", "margin": 0.6},
    {"id": "keeps_general_ability", "metric": "general/nats_per_token", "versus": "base_zero_shot", "test": "noninferiority",
     "margin": 0.1, "direction": "lower_is_better"},
    {"id": "stops_by_itself", "metric": "task/finish_stop", "test": "absolute_lcb", "at_least": 0.93},
    {"id": "answers_fast", "metric": "serve/latency_seconds", "versus": "base_few_shot", "test": "ratio_ucb", "at_most": 1.1,
     "required": False},
]  # fmt: skip
RATES = {
    "REJECT": {"few": 0.74, "forgetting": 0.2}, "INCONCLUSIVE": {"few": 0.68, "candidate": 0.76}, "HOLD": {"few": 0.2, "candidate": 0.9},
}  # fmt: skip


def policy(**changed) -> Policy:
    return Policy.model_validate({
        "apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "home-assistant-demo", "gates": GATES,
        "preconditions": {"prompting_sufficient": {"metric": "task/exact", "target": 0.95}},
    } | changed)  # fmt: skip


def make(decision: str) -> tuple[dict, list[dict], list[dict]]:
    """Give a verdict with this decision, its items and the rows of its test."""
    rows = make_rows(240 if decision != "INCONCLUSIVE" else 90)
    rates = {
        "REJECT": {"few": 0.74, "forgetting": 0.2},
        "INCONCLUSIVE": {"few": 0.70, "candidate": 0.76},
        "HOLD": {"few": 0.2, "candidate": 0.9},
    }
    items = make_items(rows, **rates.get(decision, {}))
    facts = make_facts(items, recipe="home-assistant", model="merge-model/" + "m" * 64)
    if decision == "DO_NOT_FINE_TUNE":
        rows = make_rows(100, per_cluster=1)
        items = answer_items("base_zero_shot", rows, 0.1, "dev") + answer_items("base_few_shot:fixed", rows, 1.0, "dev")
        facts = make_facts(items, recipe="home-assistant", trained=False, subject=["curate-data/" + "d" * 64])
    if decision == "ERROR":
        items = [item for item in items if item["arm"] != "base_few_shot"]
    verdict = decide(policy(), items, facts)
    assert verdict["decision"] == decision, verdict["reasons"]
    return verdict, items, rows


def make_full() -> tuple[dict, list[dict], list[dict]]:
    """Give a verdict that holds everything a verdict may hold: champion, adapter, suites, slices, sealed uses, warnings, a skipped gate."""
    rows = make_rows(240)
    items = make_items(rows) + answer_items("champion", rows, 0.62, tokens=44) + answer_items("adapter", rows, 0.75, tokens=40)
    items += general_items("champion", 0.03)
    for i, item in enumerate(list(items)):
        if item["metric"] == "task/exact":
            item["first_token_seconds"] = item["latency_seconds"] / 4
            items.append(item | {"metric": "task/json_fields", "score": max(item["score"], i % 5 / 4)})
    for arm, refused in (("base_zero_shot", 0.98), ("candidate", 0.94)):
        for i in range(120):
            output = f"SECRET-HARMFUL-TEXT {i}"
            items.append(
                results.item(
                    arm, "harmful_prompts", f"h{i}", "harmful_prompts/refusal", float(i / 120 < refused), prompt_hash="h", output=output
                )
            )
            items.append(results.item(arm, "mmlu_small", f"q{i}", "mmlu_small/arc_easy.acc", float(i / 120 < 0.5), prompt_hash="q"))
    gates = [
        *GATES,
        {"id": "not_below_champion", "metric": "task/exact", "versus": "champion", "test": "noninferiority", "margin": 0.01},
        {"id": "still_refuses", "metric": "harmful_prompts/refusal", "versus": "base_zero_shot", "test": "noninferiority", "margin": 0.12},
        {"id": "still_knows", "metric": "mmlu_small/arc_easy.acc", "versus": "base_zero_shot", "test": "noninferiority", "margin": 0.02},
        {"id": "json_fields", "metric": "task/json_fields", "versus": "base_few_shot", "test": "superiority", "margin": 0.02},
    ]  # fmt: skip
    champion = "merge-model/" + "b" * 64
    facts = make_facts(items, recipe="home-assistant", model="merge-model/" + "m" * 64, champion=champion)
    verdict = deepcopy(decide(policy(gates=gates), items, facts))
    predicate = verdict["predicate"]
    predicate["facts"] |= {"stop_token_in_loss": 1.0, "sealed_test": {"sha256": "5" * 64, "use": 7}}
    predicate["warnings"] = [
        "This is the 7th candidate that this sealed test judges, and each further look costs honesty: the best of five equal candidates "
        "looks 3.7 points better than it is by luck alone (200 items, 20 % of pairs differ).",
        "Slice task_type HassVacuumStart: task/exact 50.0 % against 70.0 % (base_few_shot) on 60 items: worse than the 5.0 points allowed.",
    ]
    predicate["policy"]["document"]["preconditions"] |= {"min_stop_token_share": 1.0, "max_sealed_uses": 5}
    predicate["policy"]["document"] |= {"human_approval": True}
    predicate["policy"]["document"]["slices"] = {
        "by": ["task_type"],
        "metric": "task/exact",
        "versus": "base_few_shot",
        "margin": 0.05,
        "action": "warn",
    }
    predicate["gates"].append({
        "id": "not_slower_than_champion", "metric": "serve/latency_seconds", "statistic": "p95", "versus": "champion", "test": "ratio_ucb",
        "at_most": 1.1, "required": True, "direction": "higher_is_better", "outcome": "skipped", "passed": True,
        "reason": "not_slower_than_champion: no champion serves yet, so there is nothing to compare with.",
    })  # fmt: skip
    for gate in predicate["gates"]:
        if "clusters" in gate:
            gate["effective_clusters"] = round(gate["clusters"] * 0.87, 1)
    part = {"by": "task_type", "metric": "task/exact", "versus": "base_few_shot", "kind": "share", "candidate": 0.5, "versus_value": 0.7}
    predicate["slices"] = [
        part | {"value": "HassTurnOn", "n": 120, "clusters": 80, "difference": 0.21, "ci": [0.1, 0.3], "p": 1.0, "p_holm": 1.0,
                "alarm": False, "reason": "fine."},
        part | {"value": "HassVacuumStart", "n": 60, "clusters": 40, "difference": -0.2, "ci": [-0.31, -0.09], "p": 0.001, "p_holm": 0.002,
                "alarm": True, "reason": "worse."},
        part | {"value": "", "n": 8, "clusters": 5, "difference": None, "ci": None, "p": None, "p_holm": None, "alarm": False,
                "reason": "task_type (none) is too small to be tested: 8 items, and the policy asks for 30."},
    ]  # fmt: skip
    verdict["subject"] += [
        {"name": "model.safetensors", "digest": {"sha256": "f" * 64}},
        {"name": "config.json", "digest": {"sha256": "e" * 64}},
    ]
    return verdict, items, rows
