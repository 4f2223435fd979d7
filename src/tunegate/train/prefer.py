"""Preference optimisation of the fine-tuned adapter, by DPO, KTO or ORPO.

Pairs come from the data, or are mined: one sampled answer that the task's checker calls right and one it calls wrong, to the
same prompt, both of the model being trained. KTO takes their answers one by one, and the data's labelled answers with them. The
result is kept only if greedy answers on dev are not worse than before.
"""

from pathlib import Path

from tunegate.predict.unsuited import refuse_full
from tunegate.recipe import Prefer, Sft
from tunegate.steps import Inputs, Result
from tunegate.train import supervise

METRICS = ("examples", "steps", "exact_dev_before", "exact_dev_after", "kept")


def prefer_step(config: dict, inputs: Inputs, output: Path) -> Result:
    settings = Prefer.model_validate(config["prefer"])
    given = {"adapter": inputs.refs["adapter"]}
    if settings.method == "none":
        return Result({"kept": False, "outcome": "no preference step asked for; the SFT adapter goes on", "log": []}, given)
    refuse_full(Sft.model_validate(config["sft"]))
    config = config | {"price_per_hour": supervise.price_per_hour(inputs.where)}
    refs = {name: inputs.refs[name] for name in ("base", "adapter", "data")}
    prepared = supervise.train(supervise.Training("pairs", config, refs), inputs)
    summary = prepared["summary"] | {"kept": False, "log": []}
    examples = f"{summary['examples']} {'labelled answers' if settings.method == 'kto' else 'pairs'}"
    if summary["steps"] < settings.min_steps:
        summary["outcome"] = (
            f"only {examples} ({summary['origin']}): {summary['steps']} steps, fewer than {settings.min_steps}; the SFT adapter goes on"
        )
        return _result(summary, given)
    done = supervise.train(supervise.Training("prefer", config, refs | prepared["refs"]), inputs)
    summary |= done["summary"]
    summary["kept"] = summary["exact_dev_after"] >= summary["exact_dev_before"]
    summary["outcome"] = (
        f"{examples}, {summary['steps']} steps; exact on dev {summary['exact_dev_before']:.1%} → "
        f"{summary['exact_dev_after']:.1%}; {'kept' if summary['kept'] else 'worse, so the SFT adapter goes on'}"
    )
    result = _result(summary, done["refs"] if summary["kept"] else given)
    result.when_kept = lambda: supervise.forget(done["run"], inputs.store)
    return result


def _result(summary: dict, refs: dict[str, str]) -> Result:
    return Result(summary, refs, {name: float(summary[name]) for name in METRICS if name in summary}, summary["outcome"])
