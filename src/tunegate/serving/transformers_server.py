"""Serve a model directory over a small part of the OpenAI API, where vLLM cannot be installed.

    python -m tunegate.serving.transformers_server --model DIR --served-model-name NAME --port 8000

GET /health, GET /v1/models, POST /tokenize (as vLLM's), POST /v1/chat/completions, POST /v1/completions (with `echo` and
`logprobs` for the log-probabilities of a prompt). Requests that arrive within 20 ms of each other are generated together.
A streamed answer comes in one piece, at its end.
Tools are shown to the model and its calls stay text (`tool_choice` none).
Not covered: stop strings, calls parsed from answers, several choices; asking for one is an error 400.
"""

import argparse
import json
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tunegate.errors import BadInput
from tunegate.serving.generation import LanguageModel, Sampling, Scored

MAX_BATCH = 128
MAX_BATCH_TOKENS = 2**15  # of all rows, padding and the answers' room included: 0.7 GiB of keys and values for a model of 135M, 4 for 8B
BATCH_WAIT_SECONDS = 0.02
MAX_BODY_BYTES = 16 * 1024 * 1024
UNSUPPORTED = (
    "stop", "functions", "response_format", "logit_bias", "frequency_penalty", "presence_penalty", "suffix",
)  # fmt: skip


class Job(NamedTuple):
    """Work for the model: `key` says which jobs may share a batch; None: none."""

    key: tuple | None
    prompt: list[int]
    tokens: int  # of the prompt and what may follow
    run: Callable[[list[list[int]]], Iterator[tuple[int, object]]]  # from prompts to places among them and results, as these come
    result: Future


class Batcher:
    """Run jobs one batch at a time on a thread of its own: a model is not to be called from two threads at once."""

    def __init__(self):
        self.arrivals: queue.Queue[Job] = queue.Queue()
        self.held: deque[Job] = deque()  # arrived, but could not join the batch of the moment
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, key: tuple | None, prompt: list[int], max_tokens: int, run: Callable) -> Future:
        job = Job(key, prompt, len(prompt) + max_tokens, run, Future())
        self.arrivals.put(job)
        return job.result

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                for place, result in batch[0].run([job.prompt for job in batch]):
                    batch[place].result.set_result(result)
            except Exception as error:
                for job in batch:
                    if not job.result.done():
                        job.result.set_exception(error)

    def _next_batch(self) -> list[Job]:
        first = self.held.popleft() if self.held else self.arrivals.get()
        batch, others, longest = [first], deque(), first.tokens
        deadline = time.monotonic() + BATCH_WAIT_SECONDS
        while first.key is not None and len(batch) < MAX_BATCH:
            try:
                job = self.held.popleft() if self.held else self.arrivals.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                break
            joins = job.key == first.key and max(longest, job.tokens) * (len(batch) + 1) <= MAX_BATCH_TOKENS
            (batch if joins else others).append(job)
            longest = max(longest, job.tokens) if joins else longest
        self.held = others + self.held
        return batch


class Api:
    """What each path does, on plain dictionaries."""

    def __init__(self, model: LanguageModel, name: str):
        self.model, self.name, self.batcher = model, name, Batcher()

    def get(self, path: str) -> dict | None:
        if path == "/health":
            return {}
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.name, "object": "model", "max_model_len": self.model.max_model_len}]}
        return None

    def post(self, path: str, body: dict) -> dict | None:
        routes = {"/v1/chat/completions": self.chat, "/v1/completions": self.complete, "/tokenize": self.tokenize}
        if path not in routes:
            return None
        if body.get("model", self.name) != self.name:
            raise BadInput(f"The model '{body['model']}' is not served here; '{self.name}' is.")
        return routes[path](body)

    def tokenize(self, body: dict) -> dict:
        if "messages" in body:
            ids = self.model.encode_chat(_messages(body), _tools(body))
        else:
            ids = self.model.encode(_typed(body, "prompt", str), _typed(body, "add_special_tokens", bool, True))
        return {"count": len(ids), "max_model_len": self.model.max_model_len, "tokens": ids}

    def chat(self, body: dict) -> dict:
        ids = self.model.encode_chat(_messages(body), _tools(body))
        limit = self.model.max_model_len - len(ids)
        key = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        answer = self._generate(body, ids, _typed(body, key, int, max(limit, 1))).result()
        kind, part = ("chat.completion.chunk", "delta") if body.get("stream") else ("chat.completion", "message")
        text = answer.text if body.get("skip_special_tokens", True) else self.model.spelt_out(answer)
        choice = {"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": answer.finish_reason}
        return self._reply(kind, [choice], len(ids), answer.completion_tokens)

    def complete(self, body: dict) -> dict:
        prompts = self._prompts(body)
        max_tokens = _typed(body, "max_tokens", int, 16)
        if body.get("logprobs") is not None or body.get("echo"):
            return self._score(body, prompts, max_tokens)
        answers = [job.result() for job in [self._generate(body, ids, max_tokens) for ids in prompts]]
        choices = [{"index": i, "text": a.text, "logprobs": None, "finish_reason": a.finish_reason} for i, a in enumerate(answers)]
        return self._reply("text_completion", choices, sum(map(len, prompts)), sum(a.completion_tokens for a in answers))

    def _score(self, body: dict, prompts: list[list[int]], max_tokens: int) -> dict:
        if not body.get("echo") or body.get("logprobs") not in (0, 1) or max_tokens not in (0, 1):
            raise BadInput("Log-probabilities are given for a prompt only: send echo true, logprobs 0 or 1, and max_tokens 0 or 1.")
        self._check_length(prompts, max_tokens)

        def score(prompts: list[list[int]]) -> Iterator[tuple[int, Scored]]:
            yield 0, self.model.score(prompts[0], max_tokens == 1)

        jobs = [self.batcher.submit(None, ids, max_tokens, score) for ids in prompts]
        choices = []
        for index, scored in enumerate(job.result() for job in jobs):
            top = [{best[0]: best[1]} if best else None for best in scored.best] if body["logprobs"] else None
            choices.append({
                "index": index, "text": "".join(scored.tokens), "finish_reason": "length",
                "logprobs": {"tokens": scored.tokens, "token_logprobs": scored.logprobs, "top_logprobs": top},
            })  # fmt: skip
        return self._reply("text_completion", choices, sum(map(len, prompts)), max_tokens * len(prompts))

    def _prompts(self, body: dict) -> list[list[int]]:
        prompt = body.get("prompt")
        if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
            prompt = [prompt]
        if not isinstance(prompt, list) or not prompt:
            raise BadInput("'prompt' must be text, a list of token ids, or a list of either.")
        encoded = [self.model.encode(one) if isinstance(one, str) else one for one in prompt]
        if not all(isinstance(ids, list) and ids and all(map(self._is_token, ids)) for ids in encoded):
            raise BadInput("'prompt' must be text, a list of token ids, or a list of either; none empty, no id beyond the vocabulary.")
        return encoded

    def _is_token(self, token) -> bool:
        return type(token) is int and 0 <= token < self.model.vocab_size

    def _generate(self, body: dict, ids: list[int], max_tokens: int) -> Future:
        unsupported = [name for name in UNSUPPORTED if body.get(name)] + [name for name in ("n", "best_of") if body.get(name, 1) != 1]
        if unsupported:
            raise BadInput(f"This small server has no '{unsupported[0]}'. Leave it out, or serve with vLLM.")
        if max_tokens < 1:
            raise BadInput(f"'max_tokens' is {max_tokens}; it must be at least 1.")
        self._check_length([ids], max_tokens)
        temperature, top_p = _typed(body, "temperature", float, 1.0), _typed(body, "top_p", float, 1.0)
        if temperature < 0 or not 0 < top_p <= 1:
            raise BadInput("'temperature' must be 0 or more, and 'top_p' above 0 and at most 1.")
        seed = _typed(body, "seed", int) if temperature > 0 and body.get("seed") is not None else None
        sampling = Sampling(max_tokens, temperature, top_p, seed)
        # A seeded sample runs alone, or its neighbours in the batch would change it.
        key = None if seed is not None else sampling
        return self.batcher.submit(key, ids, max_tokens, lambda prompts: self.model.generate(prompts, sampling))

    def _check_length(self, prompts: list[list[int]], max_tokens: int) -> None:
        longest = max(map(len, prompts))
        if longest + max_tokens > self.model.max_model_len:
            raise BadInput(
                f"The context holds {self.model.max_model_len} tokens; the prompt has {longest} and max_tokens is {max_tokens}. "
                "Shorten one of them."
            )

    def _reply(self, kind: str, choices: list[dict], prompt_tokens: int, completion_tokens: int) -> dict:
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}
        return {"id": f"cmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": self.name,
                "choices": choices, "usage": usage}  # fmt: skip


def _messages(body: dict) -> list[dict]:
    messages = body.get("messages")
    good = isinstance(messages, list) and messages and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in messages
    )  # fmt: skip
    if not good:
        raise BadInput('\'messages\' must be a list of at least one {"role": text, "content": text}.')
    return [
        turn | {"tool_calls": [_read_call(call) for call in turn["tool_calls"]]} if turn.get("tool_calls") else turn for turn in messages
    ]


def _read_call(call: dict) -> dict:
    """Read the arguments of a tool call, which are JSON in text here and an object in a chat template."""
    try:
        return call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}
    except (TypeError, KeyError, ValueError):
        raise BadInput("A tool call must be {'function': {'name': text, 'arguments': JSON in text}}.") from None


def _tools(body: dict) -> list | None:
    if body.get("tools") and body.get("tool_choice") != "none":
        raise BadInput("This small server shows tools and parses no calls: send tool_choice none, or serve with vLLM.")
    return body.get("tools")


def _typed(body: dict, name: str, kind: type, default=None):
    value = body.get(name)
    if value is None and default is not None:
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise BadInput(f"'{name}' must be {words[kind]}; it is {value!r:.80}.")
    return value


def handler_for(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(lambda: api.get(self.path))

        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY_BYTES:
                self.close_connection = True
                return self._send(413, _error(f"The request has {length} bytes; at most {MAX_BODY_BYTES} are read."))
            raw = self.rfile.read(length)
            self._answer(lambda: api.post(self.path, _read_body(raw)))

        def _answer(self, work) -> None:
            try:
                document = work()
                streamed = document is not None and document.get("object") == "chat.completion.chunk"
                kind = "text/event-stream" if streamed else "application/json"
                self._send(*((404, _error(f"There is no {self.path} here.")) if document is None else (200, document, kind)))
            except BadInput as error:
                self._send(400, _error(str(error)))
            except Exception as error:
                self._send(500, _error(f"{type(error).__name__}: {error}"))
                raise

        def _send(self, status: int, document: dict, kind: str = "application/json") -> None:
            data = json.dumps(document).encode()
            if kind == "text/event-stream":
                data = b"data: " + data + b"\n\ndata: [DONE]\n\n"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_request(self, code="-", size="-"):
            pass  # one line a request would bury the lines that matter

    return Handler


def _read_body(raw: bytes) -> dict:
    try:
        body = json.loads(raw)
    except ValueError:
        raise BadInput("The request is not JSON.") from None
    if not isinstance(body, dict):
        raise BadInput("The request must be a JSON object.")
    return body


def _error(sentence: str) -> dict:
    return {"error": {"message": sentence, "type": "invalid_request_error", "param": None, "code": None}}


class HttpServer(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 refuses a burst of clients
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", default="model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--adapter", help="a PEFT adapter, applied unmerged")
    parser.add_argument("--adapter-name", help="what the model with the adapter is called instead")
    given = parser.parse_args()
    model = LanguageModel(given.model, given.dtype, given.max_model_len, given.adapter)
    name = given.adapter_name or given.served_model_name
    server = HttpServer((given.host, given.port), handler_for(Api(model, name)))
    print(f"serving {name} on http://{given.host}:{given.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
