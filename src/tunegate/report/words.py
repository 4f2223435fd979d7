"""Name arms, metrics, decisions and steps for people."""

DECISIONS = {  # decision: (style, what it means)
    "PROMOTE": ("good", "The candidate passed every required gate and may be registered, deployed and made champion."),
    "REJECT": ("bad", "The candidate failed what the policy requires. It goes no further."),
    "INCONCLUSIVE": ("unsure", "The test is too small to see the effect that the policy asks about. The candidate goes no further."),
    "HOLD": ("unsure", "The gain is too good to be true. Look for a leak before anything else."),
    "DO_NOT_FINE_TUNE": ("info", "Prompting alone is good enough, so nothing was trained."),
    "ERROR": ("bad", "The evidence cannot be judged, and missing evidence is never a pass."),
}
METRICS = {  # metric: (name, unit)
    "task/exact": ("Exact match", ""),
    "task/finish_stop": ("Ends by itself", ""),
    "general/nats_per_token": ("Loss on general text", "nats per token"),
    "serve/prompt_tokens": ("Prompt", "tokens per request"),
    "serve/completion_tokens": ("Answer", "tokens per request"),
    "serve/latency_seconds": ("Latency", "seconds, mean"),
}
STYLES = {"candidate": "candidate", "base_few_shot": "few", "base_zero_shot": "zero"}
TESTS = {
    "superiority": "superiority", "noninferiority": "non-inferiority", "max_improvement": "leak alarm", "absolute_lcb": "absolute",
    "ratio_ucb": "ratio",
}  # fmt: skip


def arm_name(arm: str, few_shot: dict | None = None) -> str:
    if arm == "candidate":
        return "Fine-tuned"
    if arm == "base_zero_shot":
        return "Base, zero-shot"
    if arm.startswith("base_few_shot"):
        strategy = arm.partition(":")[2] or (few_shot or {}).get("strategy", "")
        return f"Base, {(few_shot or {}).get('k', 'few')} {strategy} examples".replace("  ", " ")
    return arm.replace("_", " ")


def arm_style(arm: str) -> str:
    return STYLES.get(arm.partition(":")[0], "other")


def metric_name(metric: str) -> tuple[str, str]:
    return METRICS.get(metric, (metric, ""))


def short_ref(ref: str) -> str:
    name, _, digest = ref.rpartition("/")
    return f"{name}/{digest[:10]}" if name else digest[:10]


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def cost(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
