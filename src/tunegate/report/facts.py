"""Show what a verdict says beside its gates: preconditions, slices, the sealed set, warnings, and what was compared, by digests.

A verdict made before a fact was recorded does not hold it; then nothing is shown in its place.
"""

from tunegate.gate.wording import apart, shown, signed
from tunegate.report.gates import better, p_value
from tunegate.report.words import OUTCOMES, arm_name, arm_style, metric_name, short_arm, short_ref

ENTRIES = (  # key of the policy's preconditions, key of the facts, name, and which side of the limit is good
    ("min_train_rows", "train_rows", "Training rows", "least"),
    ("max_leaked_pairs", "leaked_pairs", "Near-duplicates of the test among the training rows", "most"),
    ("min_stop_token_share", "stop_token_in_loss", "Training examples whose end-of-turn token is learnt", "least"),
)
MAX_PARTS = 20  # of the test that are listed, and every alarm; arbitrary


def preconditions(verdict: dict) -> list[dict]:
    """Give what the policy demanded before any gate, and what was found."""
    predicate = verdict["predicate"]
    rules, known = predicate["policy"]["document"].get("preconditions", {}), predicate["facts"]
    lines = []
    for rule, fact, name, side in ENTRIES:
        if (limit := rules.get(rule)) is not None:
            lines.append(_precondition(name, limit, known.get(fact), side, "share" if rule.endswith("share") else "count"))
    if (limit := rules.get("max_sealed_uses")) is not None:
        lines.append(_precondition("Candidates measured on this sealed set", limit, sealed_use(verdict), "most", "count"))
    # baseline judges this one before training; a verdict holds it only where nothing was trained
    if (rule := rules.get("prompting_sufficient")) and (told := predicate.get("prompting")):
        kind = "share" if 0 <= rule["target"] <= 1 else "number"
        lines.append({
            "name": f"{metric_name(rule['metric'])[0]} by prompting alone, on dev", "asked": f"below {shown(rule['target'], kind)}",
            "found": f"at least {shown(told['bound'], kind)}", "outcome": "failed" if told["prompting_sufficient"] else "passed",
        })  # fmt: skip
    return [line | {"mark": OUTCOMES[line["outcome"]][0]} for line in lines]


def _precondition(name: str, limit: float, value: float | None, side: str, kind: str) -> dict:
    def told(number):
        return f"{100 * number:g} %" if kind == "share" else f"{number:,}"

    good = value is not None and (value >= limit if side == "least" else value <= limit)
    outcome = "unknown" if value is None else "passed" if good else "failed"
    return {"name": name, "asked": f"at {side} {told(limit)}", "found": "unknown" if value is None else told(value), "outcome": outcome}


def sealed_use(verdict: dict) -> int | None:
    """Say which candidate this one is, of all that were ever measured on the same sealed test."""
    return (verdict["predicate"]["facts"].get("sealed_test") or {}).get("use")


def sealed_sentence(verdict: dict) -> str:
    use = sealed_use(verdict)
    if use is None:
        return ""
    if use <= 1:
        return "This candidate is the first that was measured on this sealed test."
    return f"This candidate is number {use} of all that were measured on this sealed test."


def warnings(verdict: dict) -> list[str]:
    return list(verdict["predicate"].get("warnings", []))


def slices(verdict: dict) -> dict | None:
    """Give the findings on parts of the test, the alarms first; `None` where the policy names none."""
    found = verdict["predicate"].get("slices")
    if not found:
        return None
    # a part whose scores all happen to be 0 or 1 does not make the metric a share
    kind = "number" if any(one["kind"] == "number" for one in found) else "share"
    lines = []
    for one in sorted(found, key=lambda one: (not one["alarm"], one["by"], -one["n"], one["value"])):
        tested = one["difference"] is not None
        lines.append({
            "by": one["by"].replace("_", " "), "value": one["value"], "n": f"{one['n']:,}", "clusters": f"{one['clusters']:,}",
            "difference": " ".join(better(one["difference"], kind)) if tested else "",
            "ci": " to ".join(signed(end, kind, unit=False) for end in one["ci"]) if tested else "",
            "p_holm": p_value(one["p_holm"]), "alarm": one["alarm"], "tested": tested, "reason": one["reason"],
        })  # fmt: skip
    rule, kept = verdict["predicate"]["policy"]["document"]["slices"], max(MAX_PARTS, sum(line["alarm"] for line in lines))
    return {
        "lines": lines[:kept], "left_out": len(lines[kept:]), "tested": sum(line["tested"] for line in lines),
        "metric": metric_name(rule["metric"])[0], "versus": short_arm(rule["versus"]), "allowed": apart(rule["margin"], kind),
        "decides": rule["action"] == "reject",
    }  # fmt: skip


def compared(verdict: dict) -> list[dict]:
    """Give each arm as it was served, so that anybody can see that nothing but the model and its prompt differs."""
    facts, lines = verdict["predicate"]["facts"], []
    for arm, told in sorted(facts["arms"].items(), key=lambda pair: (pair[0] == "candidate", pair[0])):
        engine = told.get("engine") or {}
        lines.append({
            "name": arm_name(arm, told.get("few_shot")), "css": arm_style(arm), "model": told.get("model_digest", ""),
            "engine": " ".join(str(part) for part in engine.values()),
            "sampling": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in (told.get("sampling") or {}).items()),
            "template": told.get("chat_template_sha256", ""), "prompts": told.get("prompts_sha256", ""),
        })  # fmt: skip
    return lines


def digests(verdict: dict) -> list[tuple[str, str]]:
    """Give what the verdict rests on, by name and digest."""
    predicate = verdict["predicate"]
    facts = predicate["facts"]
    pairs = [(f"judged: {judged['name']}", judged["digest"]["sha256"]) for judged in verdict["subject"]]
    pairs += [("policy", predicate["policy"]["sha256"]), ("evidence", predicate["evidence"]["sha256"])]
    if sealed := (facts.get("sealed_test") or {}).get("sha256"):
        pairs.append(("sealed test", sealed))
    if champion := facts.get("champion"):
        pairs.append(("champion", champion.rpartition("/")[2]))
    return pairs + [(f"input: {name}", ref.rpartition("/")[2]) for name, ref in sorted(facts.get("inputs", {}).items()) if ref]


def subject(verdict: dict) -> str:
    """Name what was judged, with the beginning of its digest."""
    judged = verdict["subject"]
    return short_ref(f"{judged[0]['name']}/{judged[0]['digest']['sha256']}") if judged else "no model"
