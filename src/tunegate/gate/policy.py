"""The promotion policy: what a candidate must prove on sealed data. One frozen model per YAML section; unknown keys are errors.

A gate names a metric, the arm it is compared with, and a test:

    superiority      lower bound of (candidate - versus)  >  margin
    noninferiority   lower bound of (candidate - versus)  >  -margin
    max_improvement  (candidate - versus)                 <= margin      a gain too good to be true is held for a leak review
    absolute_lcb     lower bound of candidate             >= at_least    (lower_is_better: upper bound <= at_most)
    ratio_ucb        upper bound of candidate / versus    <= at_most     for cost and latency

Differences are turned so that positive is better: with `direction: lower_is_better` they are versus - candidate.

Slices ask about parts of the test what the gates ask about the whole: in which of them is the candidate worse? Each is an alarm
with a test of its own, and Holm's correction over all of them keeps false alarms rare.

`docs/policy.schema.json` is this file as a JSON Schema, for editors; `tunegate policy --schema` prints it.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunegate.digests import digest_json
from tunegate.errors import BadInput
from tunegate.validation import explain, read_yaml

Alpha = Annotated[float, Field(gt=0, lt=0.5)]
Size = Annotated[int, Field(ge=2)]  # a spread needs two of anything
Margin = Annotated[float, Field(ge=0)]  # in the metric's own unit
Direction = Literal["higher_is_better", "lower_is_better"]

SERVING = ("prompt_tokens", "completion_tokens", "latency_seconds", "first_token_seconds")  # columns that become metrics serve/…
# A model that judges answers prefers length, position and its own kind (Zheng et al. 2023, arXiv 2306.05685): it may advise only.
ADVISORY = "judge/"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PromptingSufficient(Section):
    """Prompting alone is good enough when the lower bound on dev reaches `target`; then nothing is trained."""

    metric: str
    target: float


class Preconditions(Section):
    min_train_rows: Annotated[int, Field(ge=0)] = 500  # fewer curated rows are prompted better than trained
    max_leaked_pairs: Annotated[int, Field(ge=0)] = 0
    # Share of training examples whose end-of-turn token is in the loss: a model that never learnt to stop runs on (trl #7230).
    min_stop_token_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    refuse_reversed_pairs: bool = True  # preference pairs of the data in which curation found chosen and rejected to be the wrong way round
    # Candidates that one sealed test may judge; each look at it makes the best one look better than it is. None: it only warns.
    max_sealed_uses: Annotated[int, Field(ge=1)] | None = None
    prompting_sufficient: PromptingSufficient | None = None


TESTS = {  # test: the keys it needs, beside id and metric
    "superiority": {"versus", "margin"},
    "noninferiority": {"versus", "margin"},
    "max_improvement": {"versus", "margin"},
    "absolute_lcb": {"at_least"},
    "ratio_ucb": {"versus", "at_most"},
}
STATISTICS = {  # statistic other than the mean: the metrics it says something of, and the tests that can bound it
    "macro_f1": ("task/", {"superiority", "noninferiority", "absolute_lcb"}),
    **dict.fromkeys(("p50", "p90", "p95", "p99"), ("serve/", {"superiority", "noninferiority", "absolute_lcb", "ratio_ucb"})),
}


class Gate(Section):
    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    metric: str
    test: Literal["superiority", "noninferiority", "absolute_lcb", "max_improvement", "ratio_ucb"]
    versus: str | None = None  # the arm compared with
    margin: Margin | None = None
    at_least: float | None = None
    at_most: float | None = None
    statistic: Literal["mean", "macro_f1", "p50", "p90", "p95", "p99"] = "mean"  # of the metric; docs/statistics.md
    direction: Direction = "higher_is_better"
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

    @model_validator(mode="after")
    def _statistic_fits(self):
        metrics, tests = STATISTICS.get(self.statistic, ("", set(TESTS)))
        if not self.metric.startswith(metrics):
            raise ValueError(f"gate '{self.id}' asks for the {self.statistic} of {self.metric}; it is one of metrics {metrics}… only")
        if self.test not in tests:
            raise ValueError(f"gate '{self.id}' tests {self.test}, which has no bound for {self.statistic}; use {', '.join(sorted(tests))}")
        return self

    @model_validator(mode="after")
    def _a_judge_advises_only(self):
        if self.required and self.metric.startswith(ADVISORY):
            raise ValueError(f"gate '{self.id}' requires {self.metric}, and what a judge model says is advisory; set required to false")
        return self


class Slices(Section):
    """An alarm for each part of the test, where the candidate is worse than `versus` by more than `margin`.

    Holm 1979, over all slices of all `by`: with none worse, one false alarm or more has at most the probability alpha.
    """

    by: Annotated[list[Literal["task_type", "source"]], Field(min_length=1)]  # columns of the results
    metric: str
    versus: str
    margin: Margin
    test: Literal["noninferiority"] = "noninferiority"
    direction: Direction = "higher_is_better"
    min_n: Size = 30  # smaller slices are listed and not tested; arbitrary
    action: Literal["warn", "reject"] = "warn"  # whether an alarm decides

    @model_validator(mode="after")
    def _can_be_relied_on(self):
        if len(set(self.by)) < len(self.by):
            raise ValueError("slices.by names a column twice, which would correct for tests that are not made")
        if self.action == "reject" and self.metric.startswith(ADVISORY):
            raise ValueError(f"slices reject by {self.metric}, and what a judge model says is advisory; set action to warn")
        return self


class Policy(Section):
    apiVersion: Literal["tunegate/v1"]
    kind: Literal["PromotionPolicy"]
    name: Annotated[str, Field(min_length=1)]
    alpha: Alpha = 0.05  # one-sided; required gates form an intersection-union test (Berger 1982), so it is not split
    power: Annotated[float, Field(ge=0.5, lt=1)] = 0.8  # for the minimum detectable effect (Cohen 1988)
    preconditions: Preconditions = Preconditions()
    gates: Annotated[list[Gate], Field(min_length=1)]
    slices: Slices | None = None
    human_approval: bool = False  # a person must approve the version before it may be deployed

    @model_validator(mode="after")
    def _decides_something(self):
        ids = [gate.id for gate in self.gates]
        if repeated := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"gate id '{repeated[0]}' is used twice")
        if not any(gate.required and gate.test != "max_improvement" for gate in self.gates):
            raise ValueError("no required gate asks the candidate to prove anything, so every candidate would pass")
        enough = self.preconditions.prompting_sufficient
        if enough is not None and enough.metric.startswith(ADVISORY):
            raise ValueError(f"prompting_sufficient goes by {enough.metric}, and what a judge model says is advisory; name another metric")
        return self

    def digest(self) -> str:
        """Give the sha256 by which verdicts name this policy."""
        return digest_json(self.model_dump(mode="json", exclude_none=True))

    def arms(self) -> set[str]:
        """Name the arms that the candidate is compared with."""
        compared = {gate.versus for gate in self.gates if gate.versus}
        return compared | {self.slices.versus} if self.slices else compared


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


def schema_text() -> str:
    """Give the JSON Schema of policies, as docs/policy.schema.json holds it."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}
    return json.dumps(document, indent=2, ensure_ascii=False)
