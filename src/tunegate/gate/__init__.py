"""Decide, from a policy and per-item results alone, whether a candidate may be promoted; write the verdict and its evidence."""

from collections.abc import Iterable
from pathlib import Path

from tunegate.errors import BadInput


def gate_step(config: dict, inputs, output: Path):
    """Write the directory `verdict`: verdict.json, its signature, evidence and page. A REJECT is a verdict too: the step succeeds."""
    from tunegate.gate import signing, waiver
    from tunegate.gate.facts import adapter_facts, champion_of, curation_facts, files_of, sealed_use
    from tunegate.gate.measures import before_after
    from tunegate.gate.policy import Policy
    from tunegate.report.verdict import write_page
    from tunegate.steps import Result

    policy, model = Policy.model_validate(config["policy"]), inputs.refs.get("model") or None
    facts = {"recipe": config["recipe_name"], "inputs": dict(inputs.refs), "model": model, "trained": "results" in inputs}
    facts["subject"] = [inputs.refs[name] for name in ("model", "adapter") if name in inputs] or [inputs.refs["data"]]
    facts["champion"] = champion_of(config.get("champion"), model)
    facts |= curation_facts(inputs["data"], inputs["report"])
    facts |= adapter_facts(inputs["adapter"] if "adapter" in inputs else None)
    if model:
        facts["files"] = files_of(inputs.store.manifest(model))
        facts["sealed_test"] = sealed_use(inputs.store, facts["sealed_test"], model)
    results = [inputs[name] for name in ("baseline", "results") if name in inputs]
    directory = output / "verdict"
    verdict = gate(policy, results, directory, facts)
    predicate = verdict["predicate"]
    table = before_after(predicate["measures"], predicate["facts"]["arms"], config.get("cost_per_hour"))
    summary = {"decision": verdict["decision"], "reasons": verdict["reasons"], "table": table, "gates": predicate["gates"]}
    summary |= {"warnings": predicate["warnings"], "slices": predicate["slices"], "signed": signing.claimed(directory)}
    waivable = model and verdict["decision"] in waiver.WAIVABLE
    summary["waiver"] = waiver.valid_for(inputs.store, (directory / signing.VERDICT).read_bytes(), model) if waivable else None
    write_page(directory, inputs["data"], summary["signed"], summary["waiver"], config.get("cost_per_hour"))
    judged = [found for found in predicate["gates"] if found["outcome"] != "skipped"]
    metrics = {"gates_passed": sum(found["passed"] for found in judged), "gates": len(judged)}
    metrics["slice_alarms"] = sum(found["alarm"] for found in predicate["slices"])
    metrics |= {f"{found['id']}_bound": found["bound"] for found in judged if "bound" in found}
    line = _line(policy, summary) + (f"; WAIVED by {waiver.shown(summary['waiver'])}" if summary["waiver"] else "")
    return Result(summary, metrics={name: float(value) for name, value in metrics.items()}, line=line)


def gate(policy, results: Iterable[Path], output: Path, facts: dict) -> dict:
    """Judge what directories of results hold together, and write verdict, evidence and, with a signing key, signature into `output`.

    Args:
        facts: what the results do not say (see `decide` and tunegate.gate.facts); it goes before what they say of themselves.
    """
    from tunegate.digests import write_atomic
    from tunegate.gate.decide import decide
    from tunegate.gate.facts import arms_facts
    from tunegate.gate.signing import sign_where_asked
    from tunegate.gate.verdict import canonical, evidence, write_evidence

    items, arms = read_results(results)
    verdict = decide(policy, items, arms_facts(arms) | facts)
    output.mkdir(parents=True, exist_ok=True)
    write_evidence(evidence(items), output / "items.parquet")
    write_atomic(output / "verdict.json", canonical(verdict))
    sign_where_asked(output)
    return verdict


def read_results(directories: Iterable[Path]) -> tuple[list[dict], dict[str, dict]]:
    """Read the items and the arms of several directories of results.

    Raises:
        BadInput: two of them tell different things of one arm.
    """
    from tunegate import results as stored

    items, arms = [], {}
    for directory in directories:
        items += stored.read_items(directory)
        for name, arm in stored.read_arms(directory).items():
            if arms.setdefault(name, arm) != arm:
                raise BadInput(f"{directory} tells other things of the arm {name} than the results before it. Give each arm once.")
    return items, arms


def _line(policy, summary: dict) -> str:
    from tunegate.gate.wording import shown

    metric = next((found.metric for found in policy.gates if found.versus), policy.gates[0].metric)
    values = [(row["arm"], row["metrics"][metric]) for row in summary["table"] if metric in row["metrics"]]
    if summary["decision"] in ("ERROR", "DO_NOT_FINE_TUNE") or not values:
        return f"{summary['decision']}: {summary['reasons'][0]}"
    return f"{summary['decision']}: {metric} " + ", ".join(f"{arm} {shown(value['mean'], value['kind'])}" for arm, value in values)
