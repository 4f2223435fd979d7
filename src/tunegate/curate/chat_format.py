"""Drop what a model cannot or should not be trained on as a conversation.

Roles, empty turns and text that is none; control tokens spelt out; claims of another model's identity; tools and calls that
the chat template leaves out; more tokens than fit. Lengths are the base model's own, by its tokenizer and chat template,
where its directory is at hand, else a bound in characters; `note` says which. Training then leaves out what is still too long.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tunegate import rows as row_form
from tunegate.curate.chat_tokens import ChatTokens, has_tokenizer
from tunegate.curate.redaction import strings, texts
from tunegate.curate.row_stages import Context, Outcome
from tunegate.curate.self_identity import statement
from tunegate.recipe import Curate

CHARACTERS_PER_TOKEN = 8  # more than any tokenizer reaches on prose

# Control tokens of families of models, whatever the base model: no one writes them in prose or code.
FAMILIES = re.compile(
    r"<\|[\w-]{2,40}\|>"  # ChatML, Llama 3, Phi, GPT
    r"|<｜[^｜<>\n]{1,40}｜>"  # DeepSeek
    r"|\[/?INST\]|<</?SYS>>|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"  # Llama 2, Mistral
    r"|<(?:start|end)_of_(?:turn|image)>|<(?:bos|eos)>"  # Gemma
)
# <s> is a control token and HTML's strike-through: what HTML does not do is to begin a text with it, or to leave it unpaired.
SENTENCE = re.compile(r"</?s>")


def off(config: Curate, context: Context) -> str:
    return ""


def note(config: Curate, context: Context) -> str:
    """Say what the report must say about this stage; empty when there is nothing."""
    if context.base is not None and has_tokenizer(context.base):
        return ""
    return (
        f"The base model's tokenizer was not at hand: lengths are bounded by {CHARACTERS_PER_TOKEN} characters a token, and whether its "
        "chat template renders tools is not known."
    )


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Drop with the first reason there is, in the order: form, control tokens, identity, length."""
    tokens = _tokens(context.base) if context.base is not None and has_tokenizer(context.base) else None
    outcomes: list[Outcome] = [_problem(row, config, tokens) or None for row in rows]
    well = [i for i, outcome in enumerate(outcomes) if outcome is None]
    if tokens is None:
        most = context.task.max_length * CHARACTERS_PER_TOKEN
        for i in well:
            if sum(len(text) for text in _texts(rows[i])) > most:
                outcomes[i] = f"longer than {most:,} characters"
        return outcomes
    for i, wrong in zip(well, tokens.problems([rows[i] for i in well], context.task), strict=True):
        outcomes[i] = wrong or None
    return outcomes


def template_problem(row: dict, context: Context) -> str:
    """Say why the base model's chat template cannot render a row; empty where it can, or where it is not at hand."""
    if context.base is None or not has_tokenizer(context.base):
        return ""
    return _tokens(context.base).rendered(row, context.task)[1]


def _problem(row: dict, config: Curate, tokens: ChatTokens | None) -> str:
    if wrong := row_form.problem(row["messages"], row.get("tools")):
        return wrong
    if config.chat_format.special_tokens:
        for text in _texts(row):
            if token := _control_token(text, tokens):
                return f"spells out the control token {token}"
    if config.chat_format.self_identity and any(statement(turn["content"]) for turn in row["messages"] if turn["role"] == "assistant"):
        return "an answer claims a provider's identity or a knowledge cutoff"
    return ""


def _texts(row: dict) -> Iterator[str]:
    """Give every text of a row that a chat template renders: of its turns, its calls and its tools."""
    for turn in row["messages"]:
        yield from texts(turn)
    if row_form.tools(row):
        yield from strings(row["tools"])


def _control_token(text: str, tokens: ChatTokens | None) -> str:
    """Give the first control token spelt out in a text; empty when there is none."""
    if tokens is not None and (found := tokens.control.search(text)):
        return found.group()
    if found := FAMILIES.search(text):
        return found.group()
    if (found := SENTENCE.search(text)) and (text.lstrip().startswith("<s>") or text.count("<s>") != text.count("</s>")):
        return found.group()
    if text.count("<think>") != text.count("</think>"):
        return "<think>, not closed" if "<think>" in text else "</think>, not opened"
    return ""


@cache
def _tokens(base: Path) -> ChatTokens:
    return ChatTokens(base)
