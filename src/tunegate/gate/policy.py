"""The promotion policy: what a candidate must prove on sealed data. One frozen model per YAML section; unknown keys are errors.

A gate names a metric, the arm it is compared with, and a test:

    superiority      lower bound of (candidate - versus)  >  margin
    noninferiority   lower bound of (candidate - versus)  >  -margin
    max_improvement  (candidate - versus)                 <= margin      a gain too good to be true is held for a leak review
    absolute_lcb     lower bound of candidate             >= at_least    (lower_is_better: upper bound <= at_most)
    ratio_ucb        upper bound of candidate / versus    <= at_most     for cost and latency

Differences are turned so that positive is better: with `direction: lower_is_better` they are versus - candidate.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunegate.errors import BadInput
from tunegate.validation import explain, read_yaml

Alpha = Annotated[float, Field(gt=0, lt=0.5)]
Size = Annotated[int, Field(ge=2)]  # a spread needs two of anything


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PromptingSufficient(Section):
    """Prompting alone is good enough when the lower bound on dev reaches `target`; then nothing is trained."""

    metric: str
    target: float


class Preconditions(Section):
    min_train_rows: Annotated[int, Field(ge=0)] = 500  # fewer curated rows are prompted better than trained
    max_leaked_pairs: Annotated[int, Field(ge=0)] = 0
    prompting_sufficient: PromptingSufficient | None = None


TESTS = {  # test: the keys it needs, beside id and metric
    "superiority": {"versus", "margin"},
    "noninferiority": {"versus", "margin"},
    "max_improvement": {"versus", "margin"},
    "absolute_lcb": {"at_least"},
    "ratio_ucb": {"versus", "at_most"},
}


class Gate(Section):
    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    metric: str
    test: Literal["superiority", "noninferiority", "absolute_lcb", "max_improvement", "ratio_ucb"]
    versus: str | None = None  # the arm compared with
    margin: Annotated[float, Field(ge=0)] | None = None  # in the metric's own unit
    at_least: float | None = None
    at_most: float | None = None
    statistic: Literal["mean", "macro_f1", "p50", "p90", "p95", "p99"] = "mean"  # of the metric; all but the mean by cluster bootstrap
    direction: Literal["higher_is_better", "lower_is_better"] = "higher_is_better"
    min_n: Size = 2  # fewer items than this are no evidence: ERROR
    min_clusters: Size = 2
    mde_max: Annotated[float, Field(gt=0)] | None = None  # a failure that could not have seen an effect this small is INCONCLUSIVE
    required: bool = True

    @model_validator(mode="after")
    def _keys_fit_the_test(self):
        needed = TESTS[self.test]
        if self.test == "absolute_lcb" and self.direction == "lower_is_better":
            needed = {"at_most"}
        given = {key for key in ("versus", "margin", "at_least", "at_most") if getattr(self, key) is not None}
        if missing := sorted(needed - given):
            raise ValueError(f"gate '{self.id}' tests {self.test}, which needs {' and '.join(missing)}")
        if extra := sorted(given - needed):
            raise ValueError(f"gate '{self.id}' tests {self.test}, which does not use {' or '.join(extra)}")
        if self.test == "ratio_ucb" and self.mde_max is not None:
            raise ValueError(f"gate '{self.id}' tests ratio_ucb, which has no minimum detectable effect; remove mde_max")
        return self


class Policy(Section):
    apiVersion: Literal["tunegate/v1"]
    kind: Literal["PromotionPolicy"]
    name: Annotated[str, Field(min_length=1)]
    alpha: Alpha = 0.05  # one-sided; required gates form an intersection-union test (Berger 1982), so it is not split
    power: Annotated[float, Field(ge=0.5, lt=1)] = 0.8  # for the minimum detectable effect (Cohen 1988)
    preconditions: Preconditions = Preconditions()
    gates: Annotated[list[Gate], Field(min_length=1)]

    @model_validator(mode="after")
    def _decides_something(self):
        ids = [gate.id for gate in self.gates]
        if repeated := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"gate id '{repeated[0]}' is used twice")
        if not any(gate.required and gate.test != "max_improvement" for gate in self.gates):
            raise ValueError("no required gate asks the candidate to prove anything, so every candidate would pass")
        return self


def load_policy(path: Path | str) -> Policy:
    """Read a policy file.

    Raises:
        BadInput: the file is missing, is not YAML, or has an unknown, missing or wrong key.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"No policy at {path}. Give the path of a YAML file, for instance pipelines/policies/demo.yaml.")
    try:
        return Policy.model_validate(read_yaml(path.read_text(encoding="utf-8"), str(path)))
    except ValidationError as error:
        raise BadInput(explain(error, Policy, str(path))) from None
