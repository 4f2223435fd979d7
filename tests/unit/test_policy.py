import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tunegate.errors import BadInput
from tunegate.gate.policy import Gate, Policy, load_policy, schema_text

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "pipelines" / "policies" / "demo.yaml"


@pytest.fixture
def document():
    return yaml.safe_load(POLICY.read_text())


def write(tmp_path, document):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def gate(**keys):
    return {"apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "one", "gates": [{"id": "a", "metric": "m", **keys}]}


def test_reads_the_demo_policy():
    policy = load_policy(POLICY)
    first = ["beats_zero_shot", "beats_few_shot", "keeps_general_ability", "stops_by_itself"]
    assert [g.id for g in policy.gates] == [
        *first,
        "not_below_champion",
        "too_good",
        "serves_what_it_was_trained_on",
        "merge_keeps_the_gain",
    ]
    assert [g.margin for g in policy.gates] == [0.05, 0.02, 0.10, None, 0.05, 0.60, None, 0.05] and policy.gates[3].at_least == 0.97
    assert policy.preconditions.prompting_sufficient.target == 0.95
    assert policy.gates[2].direction == "lower_is_better"
    assert all(g.required for g in policy.gates)


@pytest.mark.parametrize("path", sorted(POLICY.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_policy_is_read_and_survives_a_round_trip(path):
    policy = load_policy(path)
    again = Policy.model_validate(policy.model_dump(mode="json", exclude_none=True))
    assert again == policy and again.digest() == policy.digest()


def test_the_strict_policy_asks_for_more_than_the_demo():
    demo, strict = load_policy(POLICY), load_policy(POLICY.with_name("strict.yaml"))
    assert strict.human_approval and not demo.human_approval
    assert strict.arms() == {"base_zero_shot", "base_few_shot", "champion"} == demo.arms() - {"adapter"}
    tail = next(gate for gate in strict.gates if gate.id == "latency_p95")
    assert (tail.statistic, tail.test, tail.versus) == ("p95", "ratio_ucb", "champion")
    assert any(gate.metric.startswith("safety/") and gate.test == "noninferiority" for gate in strict.gates)
    assert any(gate.mde_max for gate in strict.gates) and strict.slices.action == "reject"


def test_the_schema_in_docs_is_that_of_the_code():
    committed = (ROOT / "docs" / "policy.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text() + "\n", "write it again: tunegate policy --schema > docs/policy.schema.json"


def test_the_schema_knows_the_keys_of_every_policy():
    schema = json.loads(schema_text())
    assert set(schema["properties"]) >= set(yaml.safe_load(POLICY.read_text()))
    assert schema["additionalProperties"] is False and schema["$defs"]["Gate"]["additionalProperties"] is False
    assert set(schema["$defs"]["Gate"]["properties"]) == set(Gate.model_fields)


def test_is_frozen():
    with pytest.raises(ValidationError):
        load_policy(POLICY).alpha = 0.5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["gates"][0].update(margn=0.1), "unknown key 'gates.0.margn'. Did you mean 'margin'?"),
        (lambda d: d["preconditions"].update(min_rows=5), "unknown key 'preconditions.min_rows'"),
        (lambda d: d["gates"][0].pop("margin"), "gate 'beats_zero_shot' tests superiority, which needs margin"),
        (lambda d: d["gates"][3].update(versus="base_zero_shot"), "tests absolute_lcb, which does not use versus"),
        (lambda d: d["gates"][1].update(id="beats_zero_shot"), "gate id 'beats_zero_shot' is used twice"),
        (lambda d: d["gates"][0].update(margin=-0.1), "greater than or equal to 0"),
        (lambda d: d["gates"][0].update(margin=float("nan")), "finite number"),
        (lambda d: d["gates"][0].update(test="better"), "'gates.0.test'"),
        (lambda d: d.pop("name"), "'name' is missing"),
        (lambda d: [g.update(required=False) for g in d["gates"]], "every candidate would pass"),
        (lambda d: d.update(gates=[]), "'gates'"),
        (lambda d: d.update(alpha=0.7), "'alpha'"),
        (lambda d: d["preconditions"].update(min_stop_token_share=1.1), "'preconditions.min_stop_token_share'"),
        (lambda d: d["preconditions"].update(max_sealed_uses=0), "'preconditions.max_sealed_uses'"),
        (lambda d: d.update(human_aproval=True), "Did you mean 'human_approval'?"),
        (lambda d: d["gates"][0].update(metric="judge/win"), "requires judge/win, and what a judge model says is advisory"),
        (lambda d: d["preconditions"]["prompting_sufficient"].update(metric="judge/win"), "name another metric"),
        (lambda d: d["gates"][0].update(statistic="p95"), "asks for the p95 of task/exact; it is one of metrics serve/… only"),
        (lambda d: d["gates"][2].update(statistic="macro_f1"), "is one of metrics task/… only"),
        (lambda d: d["gates"][5].update(statistic="macro_f1"), "tests max_improvement, which has no bound for macro_f1"),
        (lambda d: d["slices"].update(by=["difficulty"]), "'slices.by.0'"),
        (lambda d: d["slices"].update(by=["source", "source"]), "names a column twice"),
        (lambda d: d["slices"].update(act="warn"), "unknown key 'slices.act'. Did you mean 'action'?"),
        (lambda d: d["slices"].update(metric="judge/win", action="reject"), "set action to warn"),
        (lambda d: d["slices"].pop("margin"), "'slices.margin' is missing"),
    ],
)
def test_a_wrong_policy_is_a_sentence(tmp_path, document, change, sentence):
    change(document)
    with pytest.raises(BadInput) as caught:
        load_policy(write(tmp_path, document))
    assert sentence in str(caught.value)
    assert "policy.yaml" in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="No policy at"):
        load_policy(tmp_path / "none.yaml")


def test_text_that_is_no_mapping_is_a_sentence(tmp_path):
    (tmp_path / "p.yaml").write_text("- a\n- b\n")
    with pytest.raises(BadInput, match="must be a mapping"):
        load_policy(tmp_path / "p.yaml")


def test_each_test_knows_its_keys():
    for keys in (
        {"test": "ratio_ucb", "versus": "base_few_shot", "at_most": 1.2},
        {"test": "absolute_lcb", "at_least": 0.9},
        {"test": "absolute_lcb", "direction": "lower_is_better", "at_most": 0.01},
        {"test": "noninferiority", "versus": "base_zero_shot", "margin": 0.0, "mde_max": 0.05},
    ):
        assert Policy.model_validate(gate(**keys)).gates[0].test == keys["test"]
    for keys in (
        {"metric": "task/exact", "statistic": "macro_f1", "test": "superiority", "versus": "base_few_shot", "margin": 0.0},
        {"metric": "serve/latency_seconds", "statistic": "p95", "test": "ratio_ucb", "versus": "champion", "at_most": 1.1},
    ):
        assert Policy.model_validate(gate(**keys)).gates[0].statistic == keys["statistic"]
    with pytest.raises(ValidationError, match="needs at_most"):
        Policy.model_validate(gate(test="absolute_lcb", direction="lower_is_better", at_least=0.9))
    with pytest.raises(ValidationError, match="every candidate would pass"):
        Policy.model_validate(gate(test="max_improvement", versus="base_few_shot", margin=0.6))
