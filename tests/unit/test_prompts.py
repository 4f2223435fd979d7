import pytest

from tunegate import prompts, recipe
from tunegate.errors import BadInput

TASK = recipe.Task(system="Short.", zero_shot_system="Long and full.")


def row(id_, question, answer="a", task_type="t", system=None):
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": id_, "messages": turns, "task_type": task_type, "source": "s", "cluster": id_}


def words(list_of_messages, tools=None):
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


def with_tools(id_, question, tool):
    called = {"type": "function", "function": {"name": tool, "arguments": {"room": "hall"}}}
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [called]}]
    return row(id_, question) | {"messages": turns, "tools": [{"type": "function", "function": {"name": tool}}]}


def test_tools_go_beside_the_prompts_and_into_their_hash():
    items = [with_tools("1", "lights on", "lamp"), row("2", "hello")]
    tool = {"type": "function", "function": {"name": "lamp", "description": None, "parameters": None}}
    assert prompts.tools_of(items) == [[tool], None]
    asked = prompts.candidate(items, TASK)
    assert prompts.prompt_hash(asked[0]) == prompts.prompt_hash(asked[0], None) != prompts.prompt_hash(asked[0], [tool])


def test_examples_show_their_calls_and_count_with_the_tools_of_the_item():
    items, seen = [row("1", "hello"), with_tools("2", "lights on", "lamp")], []

    def count(list_of_messages, tools):
        seen.append(tools)
        return [len(messages) for messages in list_of_messages]

    asked = prompts.fit(items, TASK, [[with_tools("3", "fan on", "fan")]] * 2, count, 4)
    assert seen == [prompts.tools_of(items)]
    assert [turn["role"] for turn in asked[1]] == ["system", "user", "assistant", "user"]
    assert asked[1][2]["tool_calls"][0]["function"] == {"name": "fan", "arguments": {"room": "hall"}}
    (sent,) = [turn for turn in prompts.as_sent(asked[1]) if "tool_calls" in turn]
    assert sent["tool_calls"][0] == {"type": "function", "function": {"name": "fan", "arguments": '{"room": "hall"}'}}
    assert asked[1][2]["tool_calls"][0]["function"]["arguments"] == {"room": "hall"}


def test_the_nearest_examples_are_found_by_calls_too():
    turns = [*with_tools("1", "go on", "lamp")["messages"], {"role": "tool", "content": "done"}, {"role": "assistant", "content": "done"}]
    train = [row("1", "go on"), row("2", "go on") | {"messages": turns}]
    (shown,) = prompts.nearest_examples(train, [row("9", "go on") | {"messages": turns}], 1)
    assert shown[0]["id"] == "2"
