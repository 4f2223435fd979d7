"""Count the tokens of conversations as training does, without torch: the tokenizers library, and the chat template in Jinja.

Templates are code that comes with a model, so they run in Jinja's sandbox, with the names that transformers gives them.
"""

import json
import re
from datetime import datetime
from os.path import commonprefix
from pathlib import Path

from tunegate import rows as row_form
from tunegate.errors import BadInput
from tunegate.recipe import Task
from tunegate.tasks import tool_calls

TODAY = datetime(2026, 1, 1)  # a template may print the date; the same rows must have the same length on every day


def has_tokenizer(base: Path) -> bool:
    return (base / "tokenizer.json").is_file()


class ChatTokens:
    """`control` finds a control token of this tokenizer in a text.

    Raises:
        BadInput: the chat template is missing or is not Jinja.
    """

    def __init__(self, base: Path):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.template = _template(base, _template_text(base, config))
        own = _tool_template_text(base, config)  # some models have a template of their own for prompts with tools
        self.tool_template = _template(base, own) if own else self.template
        self.names = {key: _content(value) for key, value in config.items() if key.endswith("_token") and isinstance(value, str | dict)}
        special = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        self.control = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self.end = self.tokenizer.token_to_id(self.names.get("eos_token", ""))

    def problems(self, rows: list[dict], task: Task) -> list[str]:
        """Say of each row why its conversation cannot be rendered, or that it is longer than task.max_length; else empty."""
        problems, texts = [], {}
        for place, row in enumerate(rows):
            text, problem = self.rendered(row, task)
            problems.append(problem)
            # A token is at least one character of ASCII, so short texts need no tokenizer.
            if not problem and (not text.isascii() or len(text) >= task.max_length):
                texts[place] = text
        for place, encoding in zip(texts, self.tokenizer.encode_batch_fast(list(texts.values()), add_special_tokens=False), strict=True):
            if self._length(encoding.ids) > task.max_length:
                problems[place] = f"longer than {task.max_length:,} tokens"
        return problems

    def prompts(self, conversations: list[list[dict]], tools: list[list | None]) -> list[list[int]]:
        """Give the token ids of prompts with the tools they offer, each ready for an answer: what training puts before one."""
        texts = [
            self._render(messages, offered, add_generation_prompt=True) for messages, offered in zip(conversations, tools, strict=True)
        ]
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def rendered(self, row: dict, task: Task) -> tuple[str, str]:
        """Give the conversation of a row as the template renders it, and what is wrong with that; empty: nothing."""
        from jinja2 import TemplateError

        try:
            text = self._render([*row_form.chat(row, task.system), row["messages"][-1]], row_form.tools(row))
            return text, self._tool_problem(row, task, text)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:  # a template is a program, too
            return "", f"the chat template refuses it: {' '.join(str(error).split())}"

    def _render(self, messages: list[dict], tools: list | None = None, add_generation_prompt: bool = False) -> str:
        template = self.tool_template if tools else self.template
        return template.render(
            messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **self.names
        )  # fmt: skip

    def _tool_problem(self, row: dict, task: Task, text: str) -> str:
        """Say what the template leaves out of the tools and calls of a row, which `text` is the rendering of; empty: nothing."""
        tools, prompt, answer = row_form.tools(row), row_form.chat(row, task.system), row["messages"][-1]
        if tools and text == self._render([*prompt, answer]):
            return "the model's chat template does not render tools"
        calling = [place for place, turn in enumerate(prompt) if turn.get("tool_calls")]
        if not all(tool_calls.written(tool_calls.called(prompt[i]), self._added(prompt[: i + 1], tools)[1]) for i in calling):
            return "the model's chat template does not render tool calls"
        if not answer.get("tool_calls"):
            return ""
        changed, added = self._added([*prompt, answer], tools)
        if changed:
            return "the model's chat template renders the prompt of a tool call in another way once it is called"
        calls, learnt = tool_calls.called(answer), added.rpartition(self.names["eos_token"])[0] if "eos_token" in self.names else added
        if not tool_calls.written(calls, learnt):
            return "the model's chat template does not render tool calls, or not before the end of the turn"
        if task.checker == "tool_call" and not tool_calls.same(tool_calls.read(learnt) or [], calls):
            return "the model's chat template writes tool calls in a form that the checker tool_call does not read"
        return ""

    def _added(self, messages: list[dict], tools: list | None) -> tuple[bool, str]:
        """Say whether the last turn changes how those before it are rendered, and give the text from where it shows."""
        asked, whole = self._render(messages[:-1], tools, add_generation_prompt=True), self._render(messages, tools)
        return not whole.startswith(asked), whole[len(commonprefix((asked, whole))) :]

    def _length(self, ids: list[int]) -> int:
        """Count up to and with the last end of a turn: what a template puts after it is not trained on."""
        return len(ids) - ids[::-1].index(self.end) if self.end in ids else len(ids)


def _content(token: str | dict) -> str:
    return token["content"] if isinstance(token, dict) else token


def _template(base: Path, text: str):
    """Compile a chat template."""
    from jinja2 import TemplateError, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
    from jinja2.utils import Namespace

    class Generation(Extension):
        """Let `generation` blocks, which only mark the answer for training, pass as their content."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class PublicNamespace(Namespace):
        """A namespace without underscored names, which the sandbox's own rule for attributes does not reach."""

        def __init__(*args, **kwargs):
            self, *rest = args  # so that a template may call one of its names `self`
            public = dict(*rest, **kwargs)
            refuse_private(public)
            Namespace.__init__(self, public)

        def __setitem__(self, name, value):
            refuse_private([name])
            Namespace.__setitem__(self, name, value)

    def refuse_private(names):
        if any(str(name).startswith("_") for name in names):
            raise SecurityError("a namespace may not hold names that begin with an underscore")

    def refuse(message):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals = {
        "range": environment.globals["range"], "namespace": PublicNamespace, "dict": lambda *given, **named: dict(*given, **named),
        "raise_exception": refuse, "strftime_now": lambda form: TODAY.strftime(form),
    }  # fmt: skip
    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise BadInput(f"The chat template of the base model {base} is not valid: {error}. Save its tokenizer again.") from None


def _tool_template_text(base: Path, config: dict) -> str:
    """Give what transformers takes where there are tools: the template named tool_use; empty where there is none."""
    beside, given = base / "additional_chat_templates" / "tool_use.jinja", config.get("chat_template")
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    return next((one["template"] for one in given if one["name"] == "tool_use"), "") if isinstance(given, list) else ""


def _template_text(base: Path, config: dict) -> str:
    """Give the default chat template, from chat_template.jinja or the tokenizer's configuration."""
    if (base / "chat_template.jinja").is_file():
        return (base / "chat_template.jinja").read_text(encoding="utf-8")
    given = config.get("chat_template")
    if isinstance(given, list):
        given = next((template["template"] for template in given if template["name"] == "default"), None)
    if not given:
        raise BadInput(f"The base model {base} has no chat template. Save its tokenizer with one.")
    return given
