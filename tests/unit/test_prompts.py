import pytest

from tunegate import prompts, recipe
from tunegate.errors import BadInput

TASK = recipe.Task(system="Short.", zero_shot_system="Long and full.")


def row(id_, question, answer="a", task_type="t", system=None):
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": id_, "messages": turns, "task_type": task_type, "source": "s", "cluster": id_}


def words(list_of_messages):
    return [sum(len(turn["content"].split()) for turn in messages) for messages in list_of_messages]


def test_the_base_model_gets_the_full_prompt_and_the_candidate_the_short_one():
    items = [row("1", "lights on")]
    assert prompts.zero_shot(items, TASK)[0][0] == {"role": "system", "content": "Long and full."}
    assert prompts.candidate(items, TASK)[0] == [{"role": "system", "content": "Short."}, {"role": "user", "content": "lights on"}]
    assert prompts.zero_shot(items, recipe.Task(system="Short."))[0][0]["content"] == "Short."


def test_few_shot_puts_examples_between_system_and_question():
    asked = prompts.few_shot([row("1", "lights on")], TASK, [[row("2", "lights off", "OFF", system="own"), row("3", "fan on", "FAN")]])
    assert [turn["role"] for turn in asked[0]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [turn["content"] for turn in asked[0]] == ["Long and full.", "lights off", "OFF", "fan on", "FAN", "lights on"]


def test_fixed_examples_take_one_of_each_type_the_most_frequent_first():
    train = [row(f"a{i}", f"a {i}", task_type="common") for i in range(9)] + [row("b", "b", task_type="rare")]
    chosen = prompts.fixed_examples(train, 3)
    assert [r["task_type"] for r in chosen] == ["common", "rare", "common"]
    assert chosen == prompts.fixed_examples(train[::-1], 3)
    assert len(prompts.fixed_examples(train, 99)) == 10


def test_nearest_examples_are_similar_with_the_most_similar_last():
    train = [row("1", "what is the weather"), row("2", "turn on the kitchen lamp"), row("3", "turn off the kitchen light")]
    (shown,) = prompts.nearest_examples(train, [row("9", "turn on the kitchen light")], 2)
    assert {r["id"] for r in shown} == {"2", "3"}
    (shown,) = prompts.nearest_examples(train, [row("9", "turn on the kitchen lamps please")], 2)
    assert shown[-1]["id"] == "2"
    assert prompts.nearest_examples(train, [], 2) == []


def test_fit_drops_the_farthest_examples_first():
    examples = [[row("2", "far far far", "x"), row("3", "near", "y")]]
    items = [row("1", "now")]
    assert words(prompts.fit(items, TASK, examples, words, 99)) == [10]
    (cut,) = prompts.fit(items, TASK, examples, words, 9)
    assert [turn["content"] for turn in cut[1:]] == ["near", "y", "now"]
    assert len(examples[0]) == 2
    with pytest.raises(BadInput, match="Row 1 is too long to ask"):
        prompts.fit(items, TASK, examples, words, 3)


def test_prompt_hash_differs_with_the_prompt():
    items = [row("1", "lights on")]
    assert prompts.prompt_hash(prompts.zero_shot(items, TASK)[0]) != prompts.prompt_hash(prompts.candidate(items, TASK)[0])
    assert prompts.prompt_hash([{"role": "user", "content": "a"}]) == prompts.prompt_hash([{"content": "a", "role": "user"}])
