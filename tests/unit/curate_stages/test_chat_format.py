"""Chat format: form, control tokens, and lengths by the base model's own tokenizer and template."""

import json
from pathlib import Path

import pytest
from stage_rows import CONTEXT, outcomes, row
from tiny_model import TEMPLATE, WORDS

from tunegate import rows
from tunegate.curate import chat_format
from tunegate.curate.chat_tokens import ChatTokens
from tunegate.curate.row_stages import Context
from tunegate.errors import BadInput
from tunegate.recipe import ChatFormat, Curate, Task

CONTROL = [
    "yes<|im_end|>", "<|start_header_id|>assistant", "a <|endoftext|> b", "[INST] hello [/INST]", "<<SYS>> be kind", "<start_of_turn>model",
    "<s> hello", "the answer</s>", "<think> let me see", "so it is.</think> yes", "<｜end▁of▁sentence｜>", "[TOOL_CALLS] []",
]  # fmt: skip
ORDINARY = [
    "<think>let me see</think> yes", "was <s>20</s> 10 euros", "if a <b|| c> d", "<b>bold</b> and <i>italics</i>", "x |> f <| y",
    "[inst] is short for institute", "{{ messages }}", "a <- b; c -> d", "<html><body></body></html>", "type A = <T>(x: T) => T",
    "[1, 2] and [INSTALL]", "the end of the turn",
]  # fmt: skip


def make_tokenizer(base: Path, template: str = TEMPLATE, **config) -> Path:
    """Write a byte-level tokenizer with three control tokens, and no model."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>", "<@stop@>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    base.mkdir(exist_ok=True)
    tokenizer.save(str(base / "tokenizer.json"))
    written = {
        "eos_token": "<|im_end|>",
        "bos_token": {"__type": "AddedToken", "content": "<|im_start|>"},
        "chat_template": template,
    } | config
    (base / "tokenizer_config.json").write_text(json.dumps(written))
    return base


def rendered(messages: list[dict]) -> str:
    return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "base")


def test_each_fault_of_form_keeps_its_reason():
    def turns(*given):
        return {"messages": [{"role": role, "content": content} for role, content in given]}

    bad = [
        {"messages": "hello"}, turns(("user", "hello")), turns(("user", "hi"), ("assistant", " ")),
        turns(("user", "a\ud800"), ("assistant", "b")),
        turns(("user", "a"), ("user", "b"), ("assistant", "c")), turns(("bot", "a"), ("assistant", "b")), row("x" * 600, "too long"),
    ]  # fmt: skip
    assert chat_format.check(bad, Curate(), CONTEXT) == [
        "messages is not a list of turns", "the last turn is not the assistant's", "turn 2 is empty",
        "turn 1 contains bytes that are not UTF-8, or half of a surrogate pair",
        "turn 2 is user's: user and assistant must alternate, after at most one system turn",
        "turn 1 has the role 'bot'; known are system, user, assistant, tool", "longer than 512 characters",
    ]  # fmt: skip


@pytest.mark.parametrize("text", CONTROL)
def test_a_control_token_is_found_in_any_turn(text):
    for made in (row("hello", text), row(text, "hello"), row("hello", "hello", system=text)):
        [outcome] = chat_format.check([made], Curate(), CONTEXT)
        assert outcome.startswith("spells out the control token ")
        assert chat_format.check([made], Curate(chat_format=ChatFormat(special_tokens=False)), CONTEXT) == [None]


@pytest.mark.parametrize("text", ORDINARY)
def test_what_only_looks_like_a_control_token_stays(text):
    assert outcomes(chat_format, [text]) == [None]


def test_the_control_tokens_are_those_of_the_base_model(base):
    context = Context(Task(max_length=64), base)
    assert outcomes(chat_format, ["press <@stop@> now"], context=context) == ["spells out the control token <@stop@>"]
    assert outcomes(chat_format, ["press <@stop@> now"]) == [None]


def test_lengths_are_the_tokenizers_own(base):
    tokens, task = ChatTokens(base), Task(max_length=64, system="turn on the lamp")
    made = [row("turn on the kitchen light", "yes " * n) for n in (1, 10, 20, 30, 40, 60)] + [row("é" * 20, "é" * n) for n in (2, 30)]
    outcome = chat_format.check(made, Curate(), Context(task, base))
    for got, each in zip(outcome, made, strict=True):
        text = rendered([*rows.chat(each, task.system), each["messages"][-1]])
        length = len(tokens.tokenizer.encode(text, add_special_tokens=False).ids) - 1  # without the line break after the last turn
        assert got == ("longer than 64 tokens" if length > 64 else None)
    assert set(outcome) == {None, "longer than 64 tokens"}


def test_the_last_token_that_fits_and_the_first_that_does_not(base):
    made = row("turn on the kitchen light", "yes " * 30)
    text = rendered(made["messages"])
    length = len(ChatTokens(base).tokenizer.encode(text, add_special_tokens=False).ids) - 1
    for most, expected in ((length, None), (length - 1, f"longer than {length - 1} tokens")):
        assert chat_format.check([made], Curate(), Context(Task(max_length=most), base)) == [expected]


def test_lengths_are_those_of_training(base):
    """The trainer's own tokenizer is transformers'; this module must agree with it."""
    transformers = pytest.importorskip("transformers")
    from tunegate.train.examples import row_example

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for made in (row("turn on the light", "yes"), row("grüße, 你好", "no " * 30), row("a", "b", system="be kind")):
        length = len(row_example(made, tokenizer, "now what")["input_ids"])
        for most, wrong in ((length, None), (length - 1, f"longer than {length - 1} tokens")):
            assert chat_format.check([made], Curate(), Context(Task(max_length=most, system="now what"), base)) == [wrong]


def test_a_template_that_refuses_is_a_reason(tmp_path):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system turn here') }}{% endif %}" + TEMPLATE
    context = Context(Task(max_length=64), make_tokenizer(tmp_path, template))
    made = [row("turn on", "yes"), row("turn on", "yes", system="be kind")]
    assert chat_format.check(made, Curate(), context) == [None, "the chat template refuses it: No system turn here"]


def test_templates_of_the_usual_kinds_render(tmp_path):
    template = (
        "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}"
        "{% endif %}{% set ns.n = ns.n + 1 %}{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}{{ ns.n }} "
        "{{ strftime_now('%Y') }}"
    )
    (make_tokenizer(tmp_path, "unused") / "chat_template.jinja").write_text(template)
    tokens = ChatTokens(tmp_path)
    messages = row("<é>", "yes", system="no")["messages"]
    assert tokens.template.render(messages=messages, **tokens.names) == '<|im_start|>"<é>""yes"2 2026'
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "named"}]
    assert ChatTokens(make_tokenizer(tmp_path / "named", named)).template.render() == "named"


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path):
    hidden = ["{{ namespace(_x=1) }}", "{% set ns = namespace() %}{% set ns._x = 1 %}"]
    reaching = ["{{ ''.__class__.__mro__ }}", "{{ dict.__globals__['json'] }}", *hidden]
    for number, template in enumerate(reaching):
        context = Context(Task(max_length=64), make_tokenizer(tmp_path / str(number), template))
        assert "refuses it" in chat_format.check([row("turn on", "yes")], Curate(), context)[0]


def test_a_broken_or_missing_template_is_named(tmp_path):
    with pytest.raises(BadInput, match="is not valid"):
        ChatTokens(make_tokenizer(tmp_path / "broken", "{% for %}"))
    with pytest.raises(BadInput, match="has no chat template"):
        ChatTokens(make_tokenizer(tmp_path / "none", ""))


def test_the_report_says_when_the_tokenizer_was_not_at_hand(base, tmp_path):
    assert chat_format.note(Curate(), Context(Task(), base)) == ""
    assert "8 characters a token" in chat_format.note(Curate(), Context(Task()))
    assert "not at hand" in chat_format.note(Curate(), Context(Task(), tmp_path))
