"""Name arms, metrics, decisions and steps for people."""

DECISIONS = {  # decision: (style, what it means)
    "PROMOTE": ("good", "The candidate passed every required gate and may be registered, deployed and made champion."),
    "REJECT": ("bad", "The candidate failed what the policy requires. It goes no further."),
    "INCONCLUSIVE": ("unsure", "The test is too small to see the effect that the policy asks about. The candidate goes no further."),
    "HOLD": ("unsure", "The gain is too good to be true. Look for a leak before anything else."),
    "DO_NOT_FINE_TUNE": ("info", "Prompting alone is good enough, so nothing was trained."),
    "ERROR": ("bad", "The evidence cannot be judged, and missing evidence is never a pass."),
}
METRICS = {  # metric: (name, unit), in the order of the table
    "task/exact": ("Exact match", ""),
    "task/exact_text": ("Exact text", ""),
    "task/label": ("Right label", ""),
    "task/json": ("Equal JSON", ""),
    "task/json_valid": ("Valid JSON", ""),
    "task/json_schema": ("JSON of the schema", ""),
    "task/json_fields": ("JSON fields right", "share of an answer"),
    "task/numeric": ("Right number", ""),
    "task/regex": ("Pattern found", ""),
    "task/rouge_l": ("ROUGE-L", "0 to 1"),
    "task/chrf": ("chrF", "0 to 1"),
    "task/bleu": ("BLEU", "0 to 1"),
    "task/tool_call": ("Right tool call", ""),
    "task/tool_name": ("Right tool", ""),
    "task/nats_per_token": ("Loss on the expected answer", "nats per token"),
    "task/finish_stop": ("Ends by itself", ""),
    "general/nats_per_token": ("Loss on general text", "nats per token"),
    "judge/win": ("Judge prefers it", "advisory"),
    "judge/flip": ("Judge flips with the order", ""),
    "parity/same_prompt": ("Prompt as in training", ""),
    "parity/same_as_adapter": ("Answers as before the merge", ""),
    "serve/prompt_tokens": ("Prompt", "tokens per request"),
    "serve/completion_tokens": ("Answer", "tokens per request"),
    "serve/latency_seconds": ("Loaded latency", "seconds"),
    "serve/first_token_seconds": ("Time to first token", "seconds"),
}
GROUPS = ("task", "general", "", "judge", "parity", "serve")  # what a metric is of, in the order of the table; "": a suite
MEASURES = {  # of suites; what is a task's measure too is named as there
    "refusal": "refused", "answered": "answered",
    "judged_refusal": "refused, says the judge", "judged_answered": "answered, says the judge",
}  # fmt: skip
STATISTICS = {"macro_f1": "macro-F1", "p50": "median", "p90": "90th percentile", "p95": "95th percentile", "p99": "99th percentile"}
ARMS = {  # arm: (name, short name, style)
    "base_zero_shot": ("Base, zero-shot", "zero-shot", "zero"),
    "base_few_shot": ("Base, few-shot", "few-shot", "few"),
    "champion": ("Champion", "champion", "champion"),
    "adapter": ("Adapter, unmerged", "adapter", "adapter"),
    "candidate": ("Fine-tuned", "fine-tuned", "candidate"),
}
TESTS = {
    "superiority": "superiority", "noninferiority": "non-inferiority", "max_improvement": "leak alarm", "absolute_lcb": "absolute",
    "ratio_ucb": "ratio",
}  # fmt: skip
OUTCOMES = {  # outcome of a gate: (mark, style)
    "passed": ("✓", "good"), "failed": ("✗", "bad"), "inconclusive": ("?", "unsure"), "held": ("!", "unsure"), "error": ("✗", "bad"),
    "skipped": ("–", "off"), "unknown": ("–", "off"),
}  # fmt: skip


def arm_name(arm: str, few_shot: dict | None = None) -> str:
    """Name an arm in full; a few-shot one by its examples, where arms.json tells them."""
    kind, _, variant = arm.partition(":")
    if kind == "base_few_shot" and (variant or few_shot):
        told = few_shot or {}
        strategy, short = told.get("strategy") or variant, bool(variant) and told.get("system") == "short"
        return f"Base, {told.get('k', 'few')} {strategy} examples{', short prompt' if short else ''}"
    return ARMS[kind][0] if kind in ARMS else arm.replace("_", " ")


def short_arm(arm: str) -> str:
    kind = arm.partition(":")[0]
    return ARMS[kind][1] if kind in ARMS else arm.replace("_", " ")


def arm_style(arm: str) -> str:
    kind = arm.partition(":")[0]
    return ARMS[kind][2] if kind in ARMS else "other"


def metric_name(metric: str, statistic: str = "mean") -> tuple[str, str]:
    """Give name and unit of a metric; one of a suite is named with its suite, and one of a harness (task.metric) as the harness does."""
    if metric in METRICS:
        name, unit = METRICS[metric]
    else:
        what, _, measure = metric.partition("/")
        told = MEASURES.get(measure) or METRICS.get(f"task/{measure}", (measure.replace("_", " "), ""))[0]
        name, unit = told[:1].upper() + told[1:] if what in GROUPS else f"{what.replace('_', ' ').capitalize()}: {told}", ""
        name = f"{measure} ({what})" if "." in measure else name
        name = f"{what.title()}: {told}" if what in ("parity", "judge") else name
    return name + (f", {STATISTICS[statistic]}" if statistic != "mean" else ""), unit


def metric_order(metric: str) -> tuple:
    what = metric.partition("/")[0]
    known = list(METRICS)
    return GROUPS.index(what if what in GROUPS else ""), known.index(metric) if metric in METRICS else len(known), metric


def gate_name(gate: dict) -> str:
    return gate["id"].replace("_", " ")


def short_ref(ref: str) -> str:
    name, _, digest = ref.rpartition("/")
    return f"{name}/{digest[:10]}" if name else digest[:10]


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def cost(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
