"""Decide, from a policy and per-item results alone, whether a candidate may be promoted; write the verdict and its evidence."""

import json
from pathlib import Path


def gate_step(config: dict, inputs, output: Path):
    """Write verdict/verdict.json and verdict/items.parquet. A REJECT or an ERROR is a verdict, so the step itself succeeds."""
    from tunegate.gate.measures import before_after
    from tunegate.gate.policy import Policy
    from tunegate.steps import Result

    policy = Policy.model_validate(config["policy"])
    facts = {"recipe": config["recipe_name"], "inputs": dict(inputs.refs), "model": inputs.refs.get("model") or None}
    facts["subject"] = [inputs.refs[name] for name in ("model", "adapter") if name in inputs] or [inputs.refs["data"]]
    results = inputs["results"] if "results" in inputs else None
    verdict = gate(policy, inputs["data"], inputs["report"], inputs["baseline"], output / "verdict", results, facts)
    predicate = verdict["predicate"]
    table = before_after(predicate["measures"], predicate["facts"]["arms"], config.get("cost_per_hour"))
    summary = {"decision": verdict["decision"], "reasons": verdict["reasons"], "table": table, "gates": predicate["gates"]}
    metrics = {"gates_passed": sum(found["passed"] for found in predicate["gates"]), "gates": len(predicate["gates"])}
    metrics |= {f"{found['id']}_bound": found["bound"] for found in predicate["gates"] if "bound" in found}
    return Result(summary, metrics={name: float(value) for name, value in metrics.items()}, line=_line(policy, summary))


def gate(policy, data: Path, report: Path, baseline: Path, output: Path, results: Path | None = None, facts: dict | None = None) -> dict:
    """Judge the results of `baseline` and `results` (None: nothing was trained) and write verdict and evidence into `output`."""
    from tunegate import results as stored
    from tunegate.digests import write_atomic
    from tunegate.gate.decide import decide
    from tunegate.gate.verdict import canonical, evidence, write_evidence

    directories = [directory for directory in (baseline, results) if directory is not None]
    items = [item for directory in directories for item in stored.read_items(directory)]
    arms = {name: arm for directory in directories for name, arm in stored.read_arms(directory).items()}
    facts = {"subject": [], "trained": results is not None, "arms": arms} | (facts or {}) | curation_facts(data, report)
    verdict = decide(policy, items, facts)
    output.mkdir(parents=True, exist_ok=True)
    write_evidence(evidence(items), output / "items.parquet")
    write_atomic(output / "verdict.json", canonical(verdict))
    return verdict


def curation_facts(data: Path, report: Path) -> dict:
    """Count the training rows, and read how many near-duplicate pairs the curation's own check found across the split."""
    train, counted = data / "train.jsonl", report / "report.json"
    return {
        "train_rows": _count_lines(train) if train.is_file() else None,
        "leaked_pairs": json.loads(counted.read_text(encoding="utf-8")).get("leaked_pairs") if counted.is_file() else None,
    }


def _count_lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _line(policy, summary: dict) -> str:
    from tunegate.gate.wording import shown

    metric = next((found.metric for found in policy.gates if found.versus), policy.gates[0].metric)
    values = [(row["arm"], row["metrics"][metric]) for row in summary["table"] if metric in row["metrics"]]
    if summary["decision"] in ("ERROR", "DO_NOT_FINE_TUNE") or not values:
        return f"{summary['decision']}: {summary['reasons'][0]}"
    return f"{summary['decision']}: {metric} " + ", ".join(f"{arm} {shown(value['mean'], value['kind'])}" for arm, value in values)
