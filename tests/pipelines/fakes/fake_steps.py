"""Twelve steps that do nothing but leave the objects their names promise, so that the pipeline's own logic can be run.

Environment: FAKE_WORTH_TRAINING=0, FAKE_DECISION=REJECT, FAKE_WAIVER=<who>, FAKE_FAILURE=<step>.
"""

import os

from tunegate.errors import Refused
from tunegate.steps import Result

OUTPUTS = {
    "ingest": ["rows", "base", "tokenizer"],
    "curate": ["data", "report"],
    "baseline": ["results", "replay"],
    "sft": ["adapter"],
    "prefer": ["adapter"],
    "merge": ["model"],
    "evaluate": ["results"],
    "gate": ["verdict"],
    "register": ["version"],
    "approve": [],
    "deploy": ["endpoint"],
    "promote": [],
}


def install(steps: dict[str, str]) -> None:
    for name in OUTPUTS:
        steps[name] = f"fake_steps:{name}_step"


def _step(name: str):
    def step(config, inputs, output):
        if os.environ.get("FAKE_FAILURE") == name:
            raise Refused(f"The fake {name} was told to fail. Unset FAKE_FAILURE.")
        for part in OUTPUTS[name]:
            (output / part).mkdir()
            (output / part / f"{part}.json").write_text(f'{{"made_by": "{name}"}}')
        result = Result(line=f"given {' '.join(sorted(inputs.refs))}", metrics={"things": 1.0})
        if name == "baseline":
            result.summary["worth_training"] = os.environ.get("FAKE_WORTH_TRAINING") != "0"
        elif name == "gate":
            trained = "results" in inputs
            result.summary["decision"] = os.environ.get("FAKE_DECISION", "PROMOTE") if trained else "DO_NOT_FINE_TUNE"
            result.summary["waiver"] = {"who": os.environ["FAKE_WAIVER"]} if "FAKE_WAIVER" in os.environ else None
            (output / "verdict" / "verdict.json").write_text(f'{{"decision": "{result.summary["decision"]}"}}')
        elif name == "approve":
            result.refs["version"] = inputs.refs["version"]
        return result

    return step


for _name in OUTPUTS:
    globals()[f"{_name}_step"] = _step(_name)
