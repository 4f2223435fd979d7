"""Rows with tools on their way: cleaned, rendered, trained on and asked, as the template of the base model renders them."""

import json
import shutil

import pytest
from curate_stages.test_chat_format import make_tokenizer
from stage_rows import CONTEXT
from tiny_model import TEMPLATE, TOOL_TEMPLATE

from tunegate import rows
from tunegate.curate import chat_format, curate, personal, rubric, secrets, stages
from tunegate.curate.chat_tokens import ChatTokens
from tunegate.curate.row_stages import Context
from tunegate.errors import BadInput, Refused
from tunegate.recipe import Curate, Prefer, Privacy, Task

TASK = Task(checker="tool_call", system="Call a tool.", max_length=512)
LAMP = {
    "type": "function",
    "function": {
        "description": "Set a lamp.",
        "name": "lamp",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
    },
}


def call(**arguments) -> dict:
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "lamp", "arguments": arguments}}]}


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def row(*turns: dict, tools=(LAMP,)) -> dict:
    return rows.make_row([said("user", "turn on the hall light"), *(turns or [call(room="hall")])], tools=list(tools))


ANSWERED = row(call(room="hall"), {"role": "tool", "content": "it is on"}, said("assistant", "the hall light is on"))
PROMPT = '<|im_start|>system\nCall a tool.\n{"type": "function", "function": {"name": "lamp", "description": "Set a lamp.", "parameters": '


def tokenizer(directory, template: str):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(make_tokenizer(directory, template))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tools") / "base", TOOL_TEMPLATE)


def test_tools_have_the_form_that_vllm_gives_them():
    (tool,) = rows.tools(row())
    assert list(tool) == ["type", "function"] and list(tool["function"]) == ["name", "description", "parameters"]
    bare = {"type": "function", "function": {"name": "stop", "returns": "nothing", "strict": True}}
    assert rows.tools(row(tools=[bare])) == [
        {"type": "function", "function": {"name": "stop", "description": None, "parameters": None, "strict": True}}
    ]
    assert rows.tools(row(tools=[])) is None


def test_a_call_whose_arguments_are_text_is_no_row():
    turns = [said("user", "hi"), call()]
    turns[1]["tool_calls"][0]["function"]["arguments"] = '{"room": "hall"}'
    assert "turn 2 has a tool call whose arguments are not an object" in rows.problem(turns)


def test_the_answer_that_is_learnt_is_what_the_template_renders(tmp_path):
    from tunegate.train.examples import IGNORED, prove, row_example

    made = tokenizer(tmp_path, TOOL_TEMPLATE)
    examples = [row_example(each, made, TASK.system) for each in (row(), ANSWERED)]
    texts = [made.decode([label for label in example["labels"] if label != IGNORED]) for example in examples]
    assert texts[0] == '<tool_call>\n{"name": "lamp", "arguments": {"room": "hall"}}\n</tool_call><|im_end|>'
    assert texts[1] == "the hall light is on<|im_end|>"
    assert all(made.decode(example["input_ids"]).startswith(PROMPT) for example in examples)
    prove([row(), ANSWERED], examples, made, TASK.system)


@pytest.mark.parametrize(
    "template, refused",
    [
        (TEMPLATE, "The loss would cover '<|im_end|>'"),
        (TOOL_TEMPLATE.replace("['function'] | tojson", "['function']['name']"), "The loss would cover '<tool_call>"),
        (TOOL_TEMPLATE.replace("{% if tools %}", "{% if false %}").replace("tools and", "false and"), "does not render tools"),
        (TOOL_TEMPLATE.replace("{% if tools %}", "{% if tools and messages[-1].role == 'user' %}"), "in another way once it is called"),
    ],
)
def test_training_refuses_a_template_that_leaves_out_tools_or_calls(tmp_path, template, refused):
    from tunegate.train.examples import prove, row_example

    made = tokenizer(tmp_path, template)
    with pytest.raises(Refused) as error:
        prove([row()], [row_example(row(), made, TASK.system)], made, TASK.system)
    assert refused in str(error.value)


@pytest.mark.parametrize(
    "template, outcomes",
    [
        (TOOL_TEMPLATE, [None, None]),
        (TEMPLATE, ["the model's chat template does not render tools"] * 2),
        (TOOL_TEMPLATE.replace("['function'] | tojson", "['function']['name']"), ["does not render tool calls"] * 2),
        (TOOL_TEMPLATE.replace("{% if tools %}", "{% if tools and messages[-1].role == 'user' %}"), ["in another way once it is", None]),
        (TOOL_TEMPLATE.replace("{{ call['function'] | tojson }}", "{{ call['function']['name'] }}(room='hall')"), ["does not read", None]),
        ("{% if tools %}{{ raise_exception('No tools') }}{% endif %}" + TEMPLATE, ["the chat template refuses it: No tools"] * 2),
    ],
)
def test_curation_says_of_each_row_what_the_template_leaves_out(tmp_path, template, outcomes):
    made = chat_format.check([row(), ANSWERED], Curate(), Context(TASK, make_tokenizer(tmp_path, template)))
    for outcome, expected in zip(made, outcomes, strict=True):
        assert outcome is None if expected is None else expected in outcome
    plain = rows.make_row([said("user", "hi"), said("assistant", "hello")])
    assert chat_format.check([plain], Curate(), Context(TASK, tmp_path)) == [None]


def test_lengths_with_tools_are_those_of_training(base):
    from tunegate.train.examples import row_example

    made = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(base)
    for each in (row(), ANSWERED):
        length = len(row_example(each, made, TASK.system)["input_ids"])
        for most, wrong in ((length, None), (length - 1, f"longer than {length - 1} tokens")):
            task = TASK.model_copy(update={"max_length": most})
            assert chat_format.check([each], Curate(), Context(task, base)) == [wrong]


def test_a_template_of_its_own_for_tools_is_taken(tmp_path):
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": TOOL_TEMPLATE}]
    directory = make_tokenizer(tmp_path / "named", named)
    assert chat_format.check([row()], Curate(), Context(TASK, directory)) == [None]
    directory = make_tokenizer(tmp_path / "files", "unused")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text(TOOL_TEMPLATE)
    transformers = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(directory)
    turns = [*rows.chat(row(), TASK.system), row()["messages"][-1]]
    expected = transformers.apply_chat_template(turns, tools=rows.tools(row()), tokenize=False)
    assert ChatTokens(directory).rendered(row(), TASK) == (expected, "")


def test_control_tokens_secrets_and_personal_data_are_found_in_arguments():
    token, address = "ghp_" + "a1B2" * 9, "jane@example.com"
    [outcome] = chat_format.check([row(call(room="hall<|im_end|>"))], Curate(), CONTEXT)
    assert outcome == "spells out the control token <|im_end|>"
    described = {"type": "function", "function": {"name": "lamp", "description": "<|im_start|>", "parameters": {}}}
    assert "<|im_start|>" in chat_format.check([row(tools=[described])], Curate(), CONTEXT)[0]
    given = row(call(room="hall", note={"keys": [token], "for": address, "n": 1}))
    assert secrets.check([given], Curate(), CONTEXT) == ["secret: GitHub Token"]
    assert personal.check([given], Curate(privacy=Privacy(personal="drop")), CONTEXT) == ["personal data: EMAIL_ADDRESS"]
    redact = Curate(privacy=Privacy(secrets="redact", personal="redact"))
    [clean] = personal.check(secrets.check([given], redact, CONTEXT), redact, CONTEXT)
    assert clean["messages"][1]["tool_calls"][0]["function"] == {
        "name": "lamp", "arguments": {"room": "hall", "note": {"keys": ["[SECRET]"], "for": "[EMAIL_ADDRESS]", "n": 1}}
    }  # fmt: skip
    assert clean["tools"] == given["tools"] and given["messages"][1]["tool_calls"][0]["function"]["arguments"]["note"]["keys"] == [token]


def test_a_row_that_the_task_cannot_judge_is_dropped_with_the_reason():
    made = [row(), rows.make_row([said("user", "how many lamps are there"), said("assistant", "there are seven")])]
    assert rubric.check(made, Curate(), Context(TASK)) == [None, None]
    assert rubric.check(made, Curate(), Context(Task(checker="numeric"))) == [
        "the expected answer calls tools, which numeric does not judge; tool_call does",
        "the expected answer has no number, as numeric needs it",
    ]


def test_the_same_question_with_other_tools_is_no_label_conflict():
    answers = [row(), row(said("assistant", "There is no lamp."), tools=[])]
    assert stages.label_conflicts(answers) == {}
    assert set(stages.label_conflicts([answers[0], row(said("assistant", "It is on."))])) == {0, 1}


def test_curation_keeps_tools_and_a_test_set_that_cannot_be_asked_is_refused(base, tmp_path):
    from tunegate.curate import Beside

    made = [
        rows.make_row([said("user", f"{'abcdefghij'[n % 10] * 9} {n * 7919} {n}"), call(room=f"{n * 104729}")], tools=[LAMP])
        for n in range(40)
    ]
    rows.write_rows(tmp_path / "rows.jsonl", made)
    own = rows.make_row([said("user", "and what about the cellar, please?"), call(room="cellar")], tools=[LAMP])
    rows.write_rows(tmp_path / "test.jsonl", [own])
    config = Curate(dev_rows=5, min_train_rows=10, test_set=str(tmp_path / "test.jsonl"))
    curate(tmp_path / "rows.jsonl", tmp_path / "out", config, TASK, Beside(base))
    kept = {part: list(rows.read_rows(tmp_path / "out" / "data" / f"{part}.jsonl")) for part in ("train", "dev", "test")}
    assert [each["id"] for each in kept["test"]] == [own["id"]]
    assert all(rows.tools(each) == rows.tools(own) for part in kept.values() for each in part)
    for task, sentence in ((TASK, "does not render tools"), (Task(), "calls tools, which exact does not judge")):
        other = make_tokenizer(tmp_path / task.checker, TEMPLATE if task is TASK else TOOL_TEMPLATE)
        with pytest.raises(BadInput, match=f"Row 1 of curate.test_set .* cannot be tested: .*{sentence}"):
            curate(tmp_path / "rows.jsonl", tmp_path / "out", config, task, Beside(other))


def test_mined_pairs_offer_the_tools_that_were_asked_with():
    from tunegate.train import kto
    from tunegate.train.pairs import mine_pairs

    right = '<tool_call>{"name": "lamp", "arguments": {"room": "hall"}}</tool_call>'
    (pair,) = mine_pairs([row()], [[right, "It is on.", ""]], TASK)
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (right, "It is on.")
    assert json.loads(pair["tools"]) == rows.tools(row())
    assert [single["tools"] for single in kto.singles([pair])] == [pair["tools"]] * 2


def test_given_pairs_keep_their_tools_and_orpo_refuses_them(tmp_path):
    from tunegate.train.pairs import find_pairs, given_examples

    pair = rows.make_preference([said("user", "light")], [call(room="hall")], [said("assistant", "no")], tools=[LAMP])
    rows.write_rows(tmp_path / "preferences.jsonl", [pair])
    ((example,), _) = given_examples(Prefer(pairs="given"), tmp_path, TASK)
    assert json.loads(example["tools"]) == rows.tools(pair) and example["chosen"] == pair["chosen"]
    base = make_tokenizer(tmp_path / "base", TOOL_TEMPLATE)
    pytest.importorskip("torch")
    with pytest.raises(BadInput, match="TRL's ORPO does not render tools"):
        find_pairs(Prefer(pairs="given", method="orpo"), TASK, base, tmp_path, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preference_training_sees_the_tools_and_the_calls(tiny_base, tmp_path, method):
    from peft import LoraConfig, get_peft_model

    from tunegate.train import kto
    from tunegate.train.batch import Batch
    from tunegate.train.model import load_base, load_tokenizer
    from tunegate.train.preference import longest, preference_trainer

    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    made = load_tokenizer(base)
    plain = {"prompt": [said("user", "hi")], "chosen": [said("assistant", "yes")], "rejected": [said("assistant", "no")]}
    offered = {"tools": json.dumps(rows.tools(row())), "chosen": [call(room="hall")], "rejected": [call(percent=5)]}
    pairs = [plain, plain | offered]
    assert longest(pairs[1], made) > longest(plain, made) + 20
    examples = kto.singles(pairs) if method == "kto" else pairs
    model = get_peft_model(load_base(base, attention="sdpa"), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = preference_trainer(
        model, made, examples, Prefer(method=method, train_batch_size=2), TASK, Batch(2, 1), False, tmp_path / "out"
    )
    seen = [{key: made.decode(ids) for key, ids in line.items() if key.endswith("_ids")} for line in trainer.train_dataset]
    with_tools = [line for line in seen if '"name": "lamp", "description": "Set a lamp."' in line["prompt_ids"]]
    assert len(with_tools) == len(seen) / 2
    answers = {line[key] for line in with_tools for key in ("chosen_ids", "rejected_ids", "completion_ids") if key in line}
    assert {text.partition("</tool_call>")[0].replace(" ", "") for text in answers} == {
        '<tool_call>\n{"name":"lamp","arguments":{"room":"hall"}}\n', '<tool_call>\n{"name":"lamp","arguments":{"percent":5}}\n'
    }  # fmt: skip


def test_a_sampled_answer_keeps_the_control_token_that_may_mark_a_call(base):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    from tunegate.train.generate import _text

    made = AutoTokenizer.from_pretrained(base)
    ids = made("<@stop@>{}<|im_end|>")["input_ids"]
    assert _text(made, ids, rows.tools(row())) == _text(made, ids[:-1], rows.tools(row())) == "<@stop@>{}"
    assert _text(made, ids, None) == "{}"


def test_difficulty_is_measured_with_the_same_tools_and_no_question(base):
    from transformers import AutoTokenizer

    from tunegate.curate.ifd import _examples

    made = AutoTokenizer.from_pretrained(base)
    (example,) = _examples([row()], made, TASK.system, 1)
    assert made.decode(example.empty) == made.decode(example.tokens[: example.asked]).replace("turn on the hall light", "")
    assert made.decode(example.answer).endswith('"arguments": {"room": "hall"}}\n</tool_call>')
