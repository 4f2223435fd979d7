import pytest
import yaml
from fake_run import POLICY
from pydantic import ValidationError

from tunegate.errors import BadInput
from tunegate.gate.policy import Policy, load_policy


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
    assert [g.id for g in policy.gates] == ["beats_zero_shot", "beats_few_shot", "keeps_general_ability", "stops_by_itself"]
    assert policy.preconditions.prompting_sufficient.target == 0.95
    assert policy.gates[2].direction == "lower_is_better"
    assert all(g.required for g in policy.gates)


def test_survives_a_round_trip():
    policy = load_policy(POLICY)
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


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
    with pytest.raises(ValidationError, match="needs at_most"):
        Policy.model_validate(gate(test="absolute_lcb", direction="lower_is_better", at_least=0.9))
    with pytest.raises(ValidationError, match="every candidate would pass"):
        Policy.model_validate(gate(test="max_improvement", versus="base_few_shot", margin=0.6))
