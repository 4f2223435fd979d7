"""Harness tasks against a real HTTP server with a toy model: items, prompts and the number of examples in them."""

import json
import math
from contextlib import contextmanager

import fake_engine
import pytest
import yaml

from tunegate import recipe, suites
from tunegate.errors import BadInput
from tunegate.serving import serve
from tunegate.suites import harness_metrics, harness_tasks

pytest.importorskip("lm_eval")
CAPITALS = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Peru", "Lima"), ("Chad", "N'Djamena")]
ASKED = "Capital of {{country}}?"
GENERATE = {
    "task": "capitals", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "capitals.jsonl"}}, "test_split": "test",
    "fewshot_split": "test", "output_type": "generate_until", "doc_to_text": ASKED, "doc_to_target": "{{city}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
CHOICE = GENERATE | {
    "task": "choices", "output_type": "multiple_choice", "doc_to_choice": "{{[city, 'Springfield']}}", "doc_to_target": 0,
    "metric_list": [{"metric": "acc"}, {"metric": "f1"}],
}  # fmt: skip
ROLLING = {key: value for key, value in GENERATE.items() if key not in ("generation_kwargs", "metric_list", "fewshot_split")} | {
    "task": "texts", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{country}} has a capital",
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a directory of task files, in which `write` puts a task, and a serving environment."""
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", fake_engine.install(tmp_path / "environment"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    harness_tasks._manager.cache_clear()
    (tmp_path / "tasks").mkdir()
    lines = [{"country": country, "city": city} for country, city in CAPITALS]
    (tmp_path / "tasks" / "capitals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def write(place, *documents):
    for document in documents:
        (place / "tasks" / f"{document.get('task') if 'group' not in document else document['group']}.yaml").write_text(
            yaml.safe_dump(document)
        )


def suite(place, *tasks, **more):
    return recipe.HarnessSuite(kind="harness", name="kept", tasks=list(tasks), include_path=str(place / "tasks"), **more)


@contextmanager
def served(place, answers, **config):
    model = fake_engine.model_directory(place / "model", answers)
    (model / "config.json").write_text(json.dumps(config))
    with serve(model, recipe.Serve(max_model_len=config.get("length", 64))) as server:
        yield server


def measure(server, one):
    return suites.measure(server, "candidate", one, 16, "evaluate: candidate")


def test_generated_answers_are_scored_item_by_item(place, capsys):
    write(place, GENERATE)
    answers = {f"Capital of {country}?": city for country, city in CAPITALS} | {"Capital of Peru?": "Lima\nand more"}
    with served(place, answers | {"Capital of Chad?": "Who knows"}) as server:
        items = measure(server, suite(place, "capitals"))
    assert (
        {item["metric"] for item in items}
        == {"kept/capitals.exact_match"}
        == suites.metrics_of(recipe.Evaluate(suites=[suite(place, "capitals")]))
    )
    assert [item["score"] for item in items] == [1, 1, 1, 1, 0]
    assert [item["output"] for item in items][3:] == ["Lima", "Who knows"]
    assert (items[0]["arm"], items[0]["split"], items[0]["task_type"], items[0]["expected"]) == ("candidate", "kept", "capitals", "Paris")
    assert len({item["item_id"] for item in items}) == len({item["prompt_hash"] for item in items}) == 5
    assert "evaluate: candidate on kept: 5/5 requests" in capsys.readouterr().out


def test_two_arms_have_the_same_items_and_prompts(place):
    write(place, GENERATE)
    with served(place, {}) as server:
        first, second = (measure(server, suite(place, "capitals", num_fewshot=2)) for _ in range(2))
    assert [(item["item_id"], item["prompt_hash"]) for item in first] == [(item["item_id"], item["prompt_hash"]) for item in second]


@pytest.mark.parametrize("chat", [True, False])
def test_a_task_that_says_no_examples_gets_those_of_the_recipe(place, chat):
    write(place, GENERATE | {"num_fewshot": 0})
    with served(place, {}, length=200) as server:
        none, as_said, two = (measure(server, suite(place, "capitals", chat_template=chat, num_fewshot=number)) for number in (0, None, 2))
        loaded = harness_tasks.load(suite(place, "capitals", num_fewshot=2))["capitals"]["capitals"]
    hashes = [[item["prompt_hash"] for item in items] for items in (none, as_said, two)]
    assert hashes[0] == hashes[1] and not set(hashes[0]) & set(hashes[2])
    assert len(loaded.fewshot_context({"country": "Mali", "city": "Bamako"}, 2)) > 2 * len(ASKED)


def test_the_likelier_choice_is_taken_and_metrics_of_the_whole_set_are_left_out(place, capsys):
    write(place, CHOICE)
    with served(place, {}, length=64) as server:
        items = measure(server, suite(place, "choices"))
    # To the toy model short words are likely.
    assert [item["score"] for item in items] == [1.0] * 5
    assert {item["metric"] for item in items} == {"kept/choices.acc"}
    assert "left out, for they have no value for each item: choices.f1" in capsys.readouterr().out


def test_plain_text_is_scored_in_windows(place):
    write(place, ROLLING)
    with served(place, {}, length=64, bos_token_id=0) as server:
        whole = measure(server, suite(place, "texts", chat_template=False))
    country, total = "France", sum(len(word) / 10 for word in "France has a capital".split())
    assert {item["metric"] for item in whole} == {"kept/texts.bits_per_byte"}
    assert whole[0]["score"] == pytest.approx(total / len(f"{country} has a capital") / math.log(2))


def test_a_window_gives_the_same_sum_as_the_whole_text(place):
    from lm_eval.api.instance import Instance

    from tunegate.suites.served_model import ServedModel

    text = Instance("loglikelihood_rolling", {}, ("one three seven eleven thirteen",), 0)
    with served(place, {}, length=5, bos_token_id=[0]) as server:
        (found,) = ServedModel(server, 2, "x", False).loglikelihood_rolling([text])
    assert found == pytest.approx(-sum(len(word) / 10 for word in "one three seven eleven thirteen".split()))


def test_a_continuation_is_greedy_where_no_other_token_is_likelier(place):
    from lm_eval.api.instance import Instance

    from tunegate.suites.served_model import ServedModel

    asked = [Instance("loglikelihood", {}, arguments, 0) for arguments in (("a b ", "c dd"), ("", "dd"))]
    with served(place, {}, length=16, eos_token_id=0) as server:
        found = ServedModel(server, 2, "x", True).loglikelihood(asked)
    assert [nats for nats, _ in found] == pytest.approx([-0.3, -0.2])
    assert [greedy for _, greedy in found] == [False, False]  # the toy's likeliest token has -0.01


def test_an_answer_that_the_task_begins_is_gone_on_with(place):
    from tunegate.suites.served_model import ServedModel

    with served(place, {}, length=64) as server:
        model = ServedModel(server, 2, "x", False)
        turns = [{"role": "user", "content": "Capital of Peru?"}]
        begun = [*turns, {"role": "assistant", "content": "It is"}]
        prompts = [model.apply_chat_template(messages) for messages in (turns, begun)]
        ids = model._context_ids(prompts)
        assert len(ids[prompts[1]]) == len(ids[prompts[0]]) + 2
        assert ids[prompts[1]][: len(ids[prompts[0]])] == ids[prompts[0]]


def test_a_group_is_one_metric_over_the_items_of_its_tasks(place):
    write(
        place,
        GENERATE,
        GENERATE | {"task": "again", "doc_to_text": "Seat of {{country}}?"},
        {"group": "both", "task": ["capitals", "again"]},
    )
    one = suite(place, "both")
    with served(place, {"Capital of Peru?": "Lima"}) as server:
        items = measure(server, one)
    assert suites.metrics_of(recipe.Evaluate(suites=[one])) == {"kept/both.exact_match"} == {item["metric"] for item in items}
    assert [item["task_type"] for item in items] == ["capitals"] * 5 + ["again"] * 5
    assert len({item["item_id"] for item in items}) == 10
    assert len({item["cluster_id"] for item in items}) == 5  # the same document twice is no second piece of evidence


def test_each_filter_of_answers_is_a_metric(place):
    filters = [
        {"name": "strict", "filter": [{"function": "take_first"}]},
        {"name": "last_word", "filter": [{"function": "regex", "regex_pattern": r"(\w+)$"}, {"function": "take_first"}]},
    ]
    write(place, GENERATE | {"filter_list": filters})
    one = suite(place, "capitals")
    with served(place, {"Capital of Peru?": "It is Lima"}) as server:
        items = measure(server, one)
    assert suites.metrics_of(recipe.Evaluate(suites=[one])) == {"kept/capitals.exact_match.strict", "kept/capitals.exact_match.last_word"}
    peru = {item["metric"].rpartition(".")[2]: item["score"] for item in items if item["expected"] == "Lima"}
    assert peru == {"strict": 0.0, "last_word": 1.0}


@pytest.mark.parametrize(
    "document, sentence",
    [
        (
            {"metric_list": [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}]},
            "has no metric with a value for each item",
        ),
        ({"unsafe_code": True}, "runs code that the model wrote"),
        ({"doc_to_image": "picture"}, "shows images or sounds"),
        ({"class": "Some"}, "is a Python class"),
    ],
)
def test_tasks_that_cannot_be_judged_by_item_are_refused_before_they_are_loaded(place, document, sentence):
    write(place, GENERATE | document)
    (found,) = suites.problems(recipe.Evaluate(suites=[suite(place, "capitals")]))
    assert found.startswith("Suite 'kept': the harness task capitals ") and sentence in found


def test_missing_directories_and_names_are_said(place):
    write(place, GENERATE)
    gone = recipe.HarnessSuite(kind="harness", name="kept", tasks=["x"], include_path=str(place / "nothing"))
    assert "in `include_path`, which does not exist" in suites.problems(recipe.Evaluate(suites=[gone]))[0]
    write(place, {"group": "both", "task": ["capitals", "capitals"]})
    assert suites.problems(recipe.Evaluate(suites=[suite(place, "both", "capitals")])) == [
        "Suite 'kept' asks the harness task capitals twice, in both and in capitals; remove one."
    ]


def test_a_task_whose_data_are_out_of_reach_is_said(place, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write(place, GENERATE | {"dataset_path": "nobody/nothing", "dataset_kwargs": {}})
    with pytest.raises(BadInput, match=r"Its data, nobody/nothing, are on the Hugging Face hub"):
        harness_tasks.load(suite(place, "capitals"))
    write(place, GENERATE | {"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}})
    harness_tasks._manager.cache_clear()
    with pytest.raises(BadInput, match=r"Data files in a YAML file are relative to include_path"):
        harness_tasks.load(suite(place, "capitals"))


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(place):
    write(place, GENERATE)
    with served(place, {}, length=10) as server, pytest.raises(BadInput, match="a prompt has 5 tokens and its answer may have 8"):
        measure(server, suite(place, "capitals"))


def test_a_sampled_answer_has_a_seed_of_its_own():
    from tunegate.suites.served_model import _sampling

    assert _sampling({"do_sample": True, "temperature": 0.7}, 3) == {"temperature": 0.7, "top_p": 1.0, "seed": 3}
    assert _sampling({"do_sample": False, "temperature": 0.7}, 3) == _sampling({}, 3) == {"temperature": 0.0, "top_p": 1.0, "seed": 0}


def test_scores_are_numbers():
    assert harness_metrics.value("acc", True, "mean") == 1.0
    assert harness_metrics.value("bits_per_byte", (-8 * math.log(2), 4), "bits_per_byte") == pytest.approx(2.0)
    assert harness_metrics.value("acc", [1.0], "mean") is harness_metrics.value("f1", 1.0, "f1") is None
