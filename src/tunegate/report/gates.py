"""Say of each gate what it asked and what was found, in words that need no statistics, and draw all of them."""

from tunegate.gate.wording import apart, number, shown
from tunegate.report import charts
from tunegate.report.words import OUTCOMES, TESTS, gate_name, metric_name, short_arm


def asked(gate: dict, kind: str) -> str:
    """Say what the policy asks, without the metric's name: "> 2.0 points better than few-shot"."""
    versus = short_arm(gate.get("versus", ""))
    if gate["test"] == "superiority":
        return f"> {apart(gate['margin'], kind)} better than {versus}"
    if gate["test"] == "noninferiority":
        return f"≤ {apart(gate['margin'], kind)} worse than {versus}"
    if gate["test"] == "max_improvement":
        return f"≤ {apart(gate['margin'], kind)} better than {versus}"
    if gate["test"] == "ratio_ucb":
        return f"≤ {gate['at_most']:g} times that of {versus}"
    return f"≤ {shown(gate['at_most'], kind)}" if "at_most" in gate else f"≥ {shown(gate['at_least'], kind)}"


def found(gate: dict) -> str:
    """Say what was measured, and the worst that chance leaves open: "20.8 better, at worst 12.8"."""
    if "kind" not in gate:
        return reason(gate)
    kind, test = gate["kind"], gate["test"]
    if test == "ratio_ucb":
        return f"{number(gate['ratio'])} times, at worst {number(gate['bound'])}"
    if test == "absolute_lcb":
        return f"{shown(gate['candidate'], kind)}, at worst {shown(gate['bound'], kind)}"
    size, way = better(gate["difference"], kind)
    if "bound" not in gate:
        return f"{size} {way}"
    worst, worst_way = better(gate["bound"], kind)
    return f"{size} {way}, at worst {worst}" + (f" {worst_way}" if worst_way != way else "")


def reason(gate: dict) -> str:
    """Give the gate's own sentence, without its name and its end."""
    return (gate["reason"].partition(": ")[2] or gate["reason"]).rstrip(".")


def better(difference: float, kind: str) -> tuple[str, str]:
    """Say how far and which way, where positive is better."""
    size = f"{abs(100 * difference):.1f}" if kind == "share" else number(abs(difference))
    return size, "better" if difference >= 0 else "worse"


def unit_of(gate: dict, measures: list[dict]) -> str:
    """Say whether a gate counts shares or numbers, where it has no figures of its own."""
    return gate.get("kind") or next((found["kind"] for found in measures if found["metric"] == gate["metric"]), "number")


def view(verdict: dict) -> dict | None:
    """Choose what to show of the gates: a forest plot and a line for each."""
    predicate = verdict["predicate"]
    if not predicate["gates"]:
        return None
    drawn, lines = [], []
    for gate in predicate["gates"]:
        kind = unit_of(gate, predicate["measures"])
        metric = metric_name(gate["metric"], gate.get("statistic", "mean"))[0]
        line = {
            "id": gate_name(gate), "test": TESTS[gate["test"]], "required": gate["required"], "outcome": gate["outcome"],
            "mark": OUTCOMES[gate["outcome"]][0], "metric": metric, "asked": asked(gate, kind), "found": found(gate),
            "reason": reason(gate),
            "n": _count(gate.get("n")), "clusters": _count(gate.get("clusters")), "effective": _count(gate.get("effective_clusters")),
            "p": p_value(gate.get("p")), "mcnemar": p_value(gate.get("mcnemar_p")),
            "mde": apart(gate["mde"], kind) if gate.get("mde") is not None else "–",
            "required_n": _count(gate.get("required_n")), "method": gate.get("method", ""), "told": "kind" in gate,
        }  # fmt: skip
        lines.append(line)
        if line["told"]:
            value, _, worst = line["found"].partition(", ")
            drawn.append(gate | {"label": line["id"], "subtitle": f"{metric}: {line['asked']}", "value": value, "text": worst})
    policy = predicate["policy"]["document"]
    return {
        "plot": charts.forest(drawn), "lines": lines, "alpha": policy["alpha"], "power": f"{100 * policy['power']:g} %",
        "sure": f"{100 * (1 - policy['alpha']):g} %", "effective": any(line["effective"] != "–" for line in lines),
    }  # fmt: skip


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"
