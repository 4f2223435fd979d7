"""Count the tokens of conversations as training does, without torch: the tokenizers library, and the chat template in Jinja.

Templates are code that comes with a model, so they run in Jinja's sandbox, with the names that transformers gives them.
"""

import json
import re
from datetime import datetime
from pathlib import Path

from tunegate.errors import BadInput

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
        self.template = _template(base, config)
        self.names = {key: _content(value) for key, value in config.items() if key.endswith("_token") and isinstance(value, str | dict)}
        special = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        self.control = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self.end = self.tokenizer.token_to_id(self.names.get("eos_token", ""))

    def length_problems(self, conversations: list[list[dict]], max_length: int) -> list[str]:
        """Say for each conversation whether it is longer than `max_length` tokens, or the template refuses it; else empty."""
        from jinja2 import TemplateError

        problems, texts = [], {}
        for place, messages in enumerate(conversations):
            problems.append("")
            try:
                text = self.template.render(messages=messages, tools=None, documents=None, add_generation_prompt=False, **self.names)
            except TemplateError as error:
                problems[place] = f"the chat template refuses it: {' '.join(str(error).split())}"
                continue
            # A token is at least one character of ASCII, so short texts need no tokenizer.
            if not text.isascii() or len(text) >= max_length:
                texts[place] = text
        for place, encoding in zip(texts, self.tokenizer.encode_batch_fast(list(texts.values()), add_special_tokens=False), strict=True):
            if self._length(encoding.ids) > max_length:
                problems[place] = f"longer than {max_length:,} tokens"
        return problems

    def prompts(self, conversations: list[list[dict]]) -> list[list[int]]:
        """Give the token ids of prompts, each ready for an answer: what training puts before one."""
        texts = [
            self.template.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **self.names)
            for messages in conversations
        ]
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _length(self, ids: list[int]) -> int:
        """Count up to and with the last end of a turn: what a template puts after it is not trained on."""
        return len(ids) - ids[::-1].index(self.end) if self.end in ids else len(ids)


def _content(token: str | dict) -> str:
    return token["content"] if isinstance(token, dict) else token


def _template(base: Path, config: dict):
    """Compile the default chat template, from chat_template.jinja or the tokenizer's configuration."""
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
        return environment.from_string(_template_text(base, config))
    except TemplateSyntaxError as error:
        raise BadInput(f"The chat template of the base model {base} is not valid: {error}. Save its tokenizer again.") from None


def _template_text(base: Path, config: dict) -> str:
    if (base / "chat_template.jinja").is_file():
        return (base / "chat_template.jinja").read_text(encoding="utf-8")
    given = config.get("chat_template")
    if isinstance(given, list):
        given = next((template["template"] for template in given if template["name"] == "default"), None)
    if not given:
        raise BadInput(f"The base model {base} has no chat template. Save its tokenizer with one.")
    return given
