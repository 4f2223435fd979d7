"""The whole pipeline on a tiny real model: the demo's recipe, the compiled file, real training, real serving, real MLflow."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml

from tunegate.recipe import load_recipe
from tunegate.store import open_store

ROOT = Path(__file__).parents[2]
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
POLICY = {
    "apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "tiny",
    "gates": [
        {"id": "beats_zero_shot", "metric": "task/exact", "versus": "base_zero_shot", "test": "superiority", "margin": 0.05, "min_n": 40},
        {"id": "beats_few_shot", "metric": "task/exact", "versus": "base_few_shot", "test": "superiority", "margin": 0.02, "min_n": 40},
    ],
}  # fmt: skip


def write_files(directory: Path) -> None:
    """Write distinct questions of nonsense words, all with one answer: what a random model can learn in seconds."""
    rng = random.Random(0)
    words = lambda n: " ".join("".join(rng.choices(SYLLABLES, k=2)) for _ in range(n))  # noqa: E731
    rows = [{"prompt": words(6), "completion": "yes", "task_type": "ab"[i % 2]} for i in range(640)]
    general = [{"text": words(20)} for _ in range(12)]
    anchors = [{"prompt": words(3)} for _ in range(2)] + [{"opening": words(3)} for _ in range(2)]
    for name, lines in (("rows", rows), ("general", general), ("anchors", anchors)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "policy.yaml").write_text(yaml.safe_dump(POLICY))


def demo_recipe(directory: Path, base: Path, store: str, overrides: list[str] = ()):
    """The demo's recipe with another model, other data and a policy for few items; every section and every step is in use."""
    return load_recipe(ROOT / "pipelines/recipes/demo.yaml", [
        f"base_model={base}", f"data.sources=[{directory}/rows.jsonl]", f"policy={directory}/policy.yaml", f"store={store}",
        f"baseline.replay_prompts={directory}/anchors.jsonl", f"evaluate.general_text={directory}/general.jsonl",
        "serve.engine=transformers", "serve.max_model_len=512", "task.checker=label", "task.zero_shot_system=Say yes or no.",
        "task.system=Say yes.", "task.max_new_tokens=4", "curate.dev_rows=24", "curate.test_rows=60", "curate.max_train_rows=500",
        "sft.learning_rate=1e-2", "sft.num_train_epochs=2", "sft.replay_share=0.02", "prefer.prompts=8", "prefer.samples_per_prompt=2",
        "baseline.few_shot_k=2", "register.model_name=tiny", "deploy.smoke_items=4", *overrides,
    ])  # fmt: skip


class World:
    """A directory with the recipe's files, a store and runs; `run` gives a run's verdict and what it printed."""

    def __init__(self, directory: Path, base: Path, store: str, capture):
        self.directory, self.base, self.store, self.runs, self.capture = directory, base, store, directory / "runs", capture

    def run(self, run_id: str, overrides: list[str] = (), policy: dict | None = None, **recipe) -> tuple[dict, str]:
        from tunegate.runner import run_local

        (self.directory / "policy.yaml").write_text(yaml.safe_dump(policy or POLICY))
        settings = demo_recipe(self.directory, recipe.get("base", self.base), self.store, overrides)
        assert run_local(settings, self.runs, run_id) == 0
        return json.loads((self.runs / run_id / "verdict.json").read_text()), self.capture.readouterr().out


@pytest.fixture
def without_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("where", ["directory", "s3"])
def test_the_demo_recipe_ends_with_a_champion(where, request, tmp_path, tiny_base, capfd, without_server):
    from mlflow import MlflowClient

    write_files(tmp_path)
    address = request.getfixturevalue("s3").uri if where == "s3" else str(tmp_path / "store")
    world = World(tmp_path, tiny_base, address, capfd)
    runs = world.runs

    verdict, said = world.run("first")
    assert verdict["decision"] == "PROMOTE", said
    assert "[13/13] promote" in said and "PROMOTE" in said
    page = (runs / "first/report.html").read_text()
    assert "PROMOTE" in page and not re.search(r"(src|href)=[\"']https?://", page)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("tiny", "champion")
    model = open_store(address).read_json("runs/first/merge.json")["refs"]["model"]
    assert champion.tags["tunegate.ref"] == model

    _, said = world.run("second")
    for step in ("ingest", "curate", "baseline", "sft", "prefer", "merge"):
        assert re.search(rf"\] {step}: found by digest", said), step
    assert "evaluate: candidate on test: 60 of 60 answers are in the store already" in said  # there is a champion now: this very model
    assert (runs / "second/verdict.json").read_bytes() == (runs / "first/verdict.json").read_bytes()
    assert len(client.search_model_versions("name='tiny'")) == 1
    if where == "directory":
        _the_other_verdicts(world, model)


def _the_other_verdicts(world: World, champion: str) -> None:
    """From the same store: what asks for more than its test can show, what learnt nothing, and what needs no training."""
    gate = POLICY["gates"][1] | {"margin": 0.97, "mde_max": 0.01}
    verdict, said = world.run("third", policy=POLICY | {"gates": [gate]})
    assert verdict["decision"] == "INCONCLUSIVE", said
    assert "items can show no less than" in verdict["reasons"][0] and "] sft: found by digest" in said and "] register" not in said

    verdict, said = world.run("fourth", ["sft.learning_rate=1e-7", "sft.num_train_epochs=1", "prefer.method=none"])
    assert verdict["decision"] == "REJECT", said
    assert "beats_few_shot" in " ".join(verdict["reasons"]) and "] register" not in said
    assert verdict["predicate"]["facts"]["arms"]["champion"]["model_digest"] == champion.partition("/")[2]

    enough = {"preconditions": {"prompting_sufficient": {"metric": "task/exact", "target": 0.8}}}
    taught = open_store(world.store).get(champion)
    verdict, said = world.run("fifth", policy=POLICY | enough, base=taught)
    assert verdict["decision"] == "DO_NOT_FINE_TUNE", said
    assert "Prompting alone" in verdict["reasons"][0] and "] sft" not in said


@pytest.mark.slow
def test_the_real_demo_runs_unchanged_on_s3(s3, tmp_path):
    """About half an hour on two cores: the demo with its own model and data (`make prepare` first), the store in a bucket."""
    from tunegate.runner import run_local, use_serving_environment

    use_serving_environment()
    assert run_local(load_recipe(ROOT / "pipelines/recipes/demo.yaml", [f"store={s3.uri}"]), tmp_path / "runs", "demo") == 0
    verdict = json.loads((tmp_path / "runs/demo/verdict.json").read_text())
    assert verdict["decision"] in {"PROMOTE", "REJECT", "INCONCLUSIVE", "HOLD"}
    assert verdict["predicate"]["gates"]
