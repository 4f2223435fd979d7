"""A toy model that the real gate promoted, in a real store, and an empty MLflow database: what register and deploy start from."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import fake_engine

from tunegate import prompts, results
from tunegate.gate import gate
from tunegate.gate.facts import curation_facts, files_of
from tunegate.gate.policy import Policy
from tunegate.recipe import Task
from tunegate.steps import Inputs, Result
from tunegate.store import Store, open_store

POLICY = Policy.model_validate({
    "apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "toy", "alpha": 0.05, "power": 0.8,
    "preconditions": {"min_train_rows": 1, "max_leaked_pairs": 0},
    "gates": [
        {"id": "beats_zero_shot", "metric": "task/exact", "versus": "base_zero_shot", "test": "superiority", "margin": 0.05,
         "min_n": 20, "min_clusters": 10},
    ],
})  # fmt: skip
TASK = Task(system="Answer.", max_new_tokens=8)
ITEMS = 30
ENGINE = {"name": "vllm-cpu", "version": "0.0.1", "dtype": "bfloat16"}


@dataclass
class World:
    store: Store
    refs: dict[str, str]  # model, adapter, data, report, baseline, results, verdict

    def inputs(self, **refs: str) -> Inputs:
        return Inputs(refs, self.store)

    def put(self, name: str, directory: Path) -> str:
        return self.store.put(name, directory)


def config(**changed) -> dict:
    """Give the sections that the steps after the gate take."""
    sections = {
        "register": {"model_name": "toy", "experiment": "toy"},
        "recipe_name": "toy-recipe",
        "approve": {"required": False, "timeout_hours": 1.0},
        "deploy": {"smoke_items": 4},
        "serve": {"max_model_len": 64, "start_timeout_seconds": 20},
        "task": TASK.model_dump(),
    }
    return sections | changed


def run(step, world: World, directory: Path, settings: dict, **refs: str) -> Result:
    """Run a step function as steps.run does: what it writes becomes objects of the store."""
    directory.mkdir()
    result = step(settings, world.inputs(**refs), directory)
    for part in sorted(directory.iterdir()):
        result.refs[part.name] = world.put(part.name, part)
    return result


def make(
    tmp_path: Path,
    candidate_right: int = 27,
    answer: str = "answer",
    champion: str | None = None,
    policy: Policy = POLICY,
    leaked_pairs: int = 0,
) -> World:
    """Train nothing, but judge a candidate that answers `candidate_right` of 30 items, by the real gate, beside `champion`."""
    store = open_store(str(tmp_path / "store"))
    rows = [
        {"id": f"{i:064x}", "messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"{answer} {i}"}],
         "task_type": "", "source": "toy", "cluster": f"{i:064x}"}
        for i in range(ITEMS)
    ]  # fmt: skip
    said = {f"question {i}": f"{answer} {i}" if i < candidate_right else "wrong" for i in range(ITEMS)}
    (data := tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "dev.jsonl").write_text("")
    (report := tmp_path / "report").mkdir()
    (report / "report.json").write_text(json.dumps({"leaked_pairs": leaked_pairs}))
    model = fake_engine.model_directory(tmp_path / "model", said)
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter.txt").write_text(f"{answer} {candidate_right}")
    (adapter / "training.json").write_text('{"stop_token_in_loss": 1.0}')
    refs = {"model": store.put("merge-model", model), "adapter": store.put("sft-adapter", adapter), "data": store.put("curate-data", data)}
    base = {f"question {i}": f"{answer} {i}" if i < 3 else "?" for i in range(ITEMS)}
    _write_arm(tmp_path / "baseline", "base_zero_shot", "base_zero_shot", rows, base)
    _write_arm(tmp_path / "results", "candidate", refs["model"].rpartition("/")[2], rows, said)
    facts = {"subject": [refs["model"], refs["adapter"]], "inputs": dict(refs), "champion": champion, "stop_token_in_loss": 1.0}
    facts |= curation_facts(data, report) | {"files": files_of(store.manifest(refs["model"]))}
    gate(policy, [tmp_path / "baseline", tmp_path / "results"], tmp_path / "verdict", facts)
    refs |= {name: store.put(name, tmp_path / name) for name in ("report", "baseline", "results")}
    refs["verdict"] = store.put("gate-verdict", tmp_path / "verdict")
    return World(store, refs)


def registered(world: World, directory: Path) -> Result:
    """Register the model of the world; gives what the step gives."""
    from tunegate.register import register_step

    return run(register_step, world, directory, config(), verdict=world.refs["verdict"], model=world.refs["model"])


def _write_arm(directory: Path, arm: str, digest: str, rows: list[dict], said: dict[str, str]) -> None:
    asked = prompts.candidate(rows, TASK)
    items = []
    for row, messages in zip(rows, asked, strict=True):
        output = said[row["messages"][0]["content"]]
        right, hashed = row["messages"][1]["content"], prompts.prompt_hash(messages)
        about = {"cluster_id": row["cluster"], "prompt_hash": hashed, "output": output, "expected": right, "finish_reason": "stop"}
        about |= {"prompt_tokens": 3, "completion_tokens": 2, "latency_seconds": 0.1}
        items.append(results.item(arm, "test", row["id"], "task/exact", float(output == right), **about))
    record = {
        "model_digest": digest, "engine": ENGINE, "chat_template_sha256": "c" * 64, "sampling": {"temperature": 0.0}, "few_shot": None,
        "seconds": 1.0, "items": len(rows),
    }  # fmt: skip
    results.write_results(directory, items, {arm: record})


@cache
def _empty_database() -> Path:
    from mlflow import MlflowClient

    directory = Path(tempfile.mkdtemp(prefix="tunegate-test-"))
    MlflowClient(tracking_uri=f"sqlite:///{directory}/mlflow.db").search_experiments()
    return directory / "mlflow.db"


def use_database(tmp_path: Path, monkeypatch) -> None:
    """Let this process use an MLflow database of its own; it is copied, since making one takes seconds."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copyfile(_empty_database(), tmp_path / "runs" / "mlflow.db")
    monkeypatch.setenv("TUNEGATE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNEGATE_RUN_ID", "run-1")
    monkeypatch.setenv("TUNEGATE_EXPERIMENT", "demo")
