"""A small, realistic run, made up: results of three arms on voice commands, and the records that steps leave in a store."""

import hashlib
import json
import random
from pathlib import Path

from tunegate import digests, ledger, results

ENGINE = {"name": "vllm", "version": "0.11.0", "dtype": "bfloat16"}
POLICY = Path(__file__).with_name("fake_policy.yaml")
INTENTS = {
    "HassTurnOn": "turn on the {name}", "HassTurnOff": "switch the {name} off", "HassLightSet": "set {area} brightness to {n} percent",
    "HassMediaPause": "pause the {area} music", "HassClimateGetTemperature": "how warm is it in the {area}",
    "HassStartTimer": "start a timer for {n} minutes", "HassVacuumStart": "vacuum the {area}", "HassGetState": "is the {name} open",
}  # fmt: skip
WORDS = {
    "name": ["desk lamp", "coffee machine", "left curtain", "tower fan", "front gate", "kettle"],
    "area": ["kitchen", "hallway", "garage", "guest room", "patio", "den"],
    "n": ["5", "15", "40", "70"],
}  # fmt: skip

PROMPT_OF = {"adapter": "candidate", "champion": "candidate"}  # asked as the candidate is

DROPPED = [  # stage, reason, rows
    ("chat format", "longer than 1,024 tokens", 6), ("exact duplicates", "the same as another row", 274),
    ("label conflicts", "same question, another answer", 21), ("near-duplicates", "near-duplicate of another row", 1559),
    ("split", "over max_train_rows (1,400)", 400),
]  # fmt: skip


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_rows(count: int, seed: int = 0, per_cluster: int = 2) -> list[dict]:
    """Make rows as curate writes them, `per_cluster` of them in a cluster."""
    rng, rows = random.Random(seed), []
    for i in range(count):
        intent = list(INTENTS)[i % len(INTENTS)]
        slots = {key: rng.choice(values) for key, values in WORDS.items() if "{" + key + "}" in INTENTS[intent]}
        answer = json.dumps({"intent": intent, "slots": {k: int(v) if v.isdigit() else v for k, v in slots.items()}})
        question = f"{INTENTS[intent].format(**slots)}{' please' * (i % 3 == 0)}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({
            "id": sha(f"{seed} {i} {question}"), "messages": messages, "task_type": intent, "source": "commands.jsonl",
            "cluster": sha(f"{seed} {i // per_cluster}"),
        })  # fmt: skip
    return rows


def answer_items(arm: str, rows: list[dict], right: float, split: str = "test", tokens: int = 120, seed: int = 0) -> list[dict]:
    """Answer a share `right` of the rows correctly; an arm that is right more often is right on the same rows and more."""
    rng, items = random.Random(seed), []
    for row in rows:
        wanted = row["messages"][-1]["content"]
        ok = rng.random() < right
        wrong = ['{"intent": "HassTurnOn"}', "Sure! I have done that for you.", wanted.replace(": ", ":").replace("}}", "}")]
        about = {
            "cluster_id": row["cluster"], "task_type": row["task_type"], "source": row["source"], "expected": wanted,
            "prompt_hash": sha(f"{PROMPT_OF.get(arm, arm)} {row['id']}"), "output": wanted if ok else wrong[rng.randrange(3)],
            "finish_reason": "stop", "prompt_tokens": tokens + len(row["messages"][0]["content"]) // 4,
            "completion_tokens": len(wanted) // 4, "latency_seconds": 0.2 + tokens / 1000 + rng.random() / 5,
        }  # fmt: skip
        for metric, score in (("task/exact", float(ok)), ("task/finish_stop", 1.0)):
            items.append(results.item(arm, split, row["id"], metric, score, **about))
    return items


def general_items(arm: str, shift: float, count: int = 60, seed: int = 3) -> list[dict]:
    base, own, items = random.Random(seed), random.Random(f"{arm} {seed}"), []
    for i in range(count):
        score = base.uniform(1.8, 3.6) + shift + own.gauss(0, 0.03)
        text = sha(f"text {i}")
        about = {"task_type": "general", "prompt_hash": text, "prompt_tokens": 200}
        items.append(results.item(arm, "general", text, "general/nats_per_token", score, **about))
    return items


def make_items(test: list[dict], zero=0.04, few=0.45, candidate=0.75, forgetting=0.02) -> list[dict]:
    """Make the test and general results of a run whose candidate is `candidate` right and forgot `forgetting` nats a token."""
    return (
        answer_items("base_zero_shot", test, zero, tokens=410) + answer_items("base_few_shot", test, few, tokens=690)
        + answer_items("candidate", test, candidate, tokens=40)
        + general_items("base_zero_shot", 0.0) + general_items("candidate", forgetting)
    )  # fmt: skip


def make_arms(items: list[dict], model_digest: str = "m" * 64) -> dict[str, dict]:
    arms = {}
    for arm in {item["arm"] for item in items}:
        few = {"strategy": arm.partition(":")[2] or "nearest", "k": 5} if "few" in arm else None
        count = len({item["item_id"] for item in items if item["arm"] == arm and item["split"] != "general"})
        arms[arm] = {
            "model_digest": model_digest if arm == "candidate" else "b" * 64, "engine": ENGINE, "chat_template_sha256": "c" * 64,
            "prompts_sha256": sha(arm), "sampling": {"temperature": 0.0, "max_tokens": 96}, "few_shot": few, "split": "test",
            "seconds": {"base_zero_shot": 61.0, "candidate": 22.5}.get(arm, 118.0), "items": count,
        }  # fmt: skip
    return arms


def make_facts(items: list[dict], **changed) -> dict:
    facts = {"trained": True, "train_rows": 1400, "leaked_pairs": 0, "stop_token_in_loss": 1.0, "champion": None, "arms": make_arms(items)}
    sealed = {"sha256": sha("sealed"), "items": None, "use": 1}
    return facts | {"sealed_test": sealed, "subject": ["merge-model/" + "m" * 64]} | changed


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def losses(first: float, last: float, steps: int, every: int = 10, seed: int = 1) -> list[dict]:
    rng, log = random.Random(seed), []
    for step in range(every, steps + 1, every):
        log.append({"step": step, "loss": last + (first - last) * 0.97**step + rng.uniform(0, 0.03), "learning_rate": 1e-3})
    return log


def results_object(store, tmp: Path, name: str, items: list[dict], model_digest: str) -> str:
    results.write_results(tmp / name, items, make_arms(items, model_digest))
    return store.put(f"{name}-results", tmp / name)


def digest_of(ref: str) -> str:
    return ref.rpartition("/")[2]


def record(store, run_id: str, step: str, **document) -> dict:
    """Leave a step's record as steps.run does."""
    document = {
        "step": step, "key": digests.digest_json(step), "config": {}, "inputs": {}, "refs": {}, "summary": {}, "metrics": {}, "line": "",
        "seconds": 1.0, "reused": False,
    } | document  # fmt: skip
    store.write_json(f"runs/{run_id}/{step}.json", document)
    return document


def fake_run(store, tmp: Path, until: str = "promote", **rates) -> str:
    """Leave the records and objects of a whole run in `store`, up to the step `until`; gives the run's id."""
    from tunegate.gate import gate_step
    from tunegate.gate.policy import load_policy
    from tunegate.steps import STEPS, Inputs

    run_id, done = "20260102-030405-ab12", list(STEPS)[: list(STEPS).index(until) + 1]
    test, model_ref = make_rows(240), store.put("merge-model", _file(tmp / "model", "weights"))
    items = make_items(test, **rates)
    dev = answer_items("base_zero_shot", test[:100], 0.05, "dev") + answer_items("base_few_shot:nearest", test[:100], 0.5, "dev")
    for split, count in (("train", 1400), ("dev", 100)):
        write_rows(tmp / "data" / f"{split}.jsonl", make_rows(count, seed=7))
    write_rows(tmp / "data" / "test.jsonl", test)
    _write_curation(tmp / "report", test)
    data, report = store.put("curate-data", tmp / "data"), store.put("curate-report", tmp / "report")
    base = results_object(store, tmp, "baseline", dev + [i for i in items if i["arm"] != "candidate"], "b" * 64)
    measured = results_object(store, tmp, "evaluate", [i for i in items if i["arm"] == "candidate"], digest_of(model_ref))
    (tmp / "adapter").mkdir()
    (tmp / "adapter" / "training.json").write_text(json.dumps({"stop_token_in_loss": 1.0}))
    adapter = store.put("sft-adapter", tmp / "adapter")
    sft = {"learning_rate": 1e-3, "num_train_epochs": 3, "lora": {"r": 16, "alpha": 32}}
    records = {
        "plan": {"line": "135 M parameters; 13 steps", "seconds": 0.9, "config": {"recipe": "name: home-assistant\ncost_per_hour: 0.1\n"}},
        "ingest": {"line": "4,000 rows from 1 source, 3 quarantined", "seconds": 4.2, "refs": {"rows": report}},
        "curate": {"line": "4,000 rows in, 1,740 kept", "seconds": 11.8, "refs": {"data": data, "report": report}},
        "baseline": {"line": "test: zero-shot 3.8% exact, few-shot (nearest 5) 43.3%", "seconds": 214.0, "refs": {"results": base},
                     "summary": {"worth_training": True}},
        "sft": {"line": "1,540 examples, 145 steps, loss 2.91 → 0.12, 640 tokens/s", "seconds": 512.0, "refs": {"adapter": adapter},
                "summary": {"log": losses(2.9, 0.1, 145, every=5)}, "config": {"sft": sft}, "inputs": {"data": data}, "reused": True},
        "prefer": {"line": "186 pairs, 47 steps; exact on dev 72.0% → 74.0%; kept", "seconds": 301.0, "refs": {"adapter": adapter},
                   "summary": {"log": losses(0.69, 0.31, 47, every=2, seed=2)}},
        "merge": {"line": "210 of 272 tensors, KL to the adapter 2.1e-05 nats", "seconds": 19.5, "refs": {"model": model_ref}},
        "evaluate": {"line": "candidate 75.8% exact on 240 test items", "seconds": 64.0, "refs": {"results": measured}},
        "register": {"line": "home-assistant version 3", "seconds": 1.9},
        "approve": {"line": "home-assistant version 3: not-required"},
        "deploy": {"line": "smoke test: 8 of 8 answers as in evaluation", "seconds": 31.0},
        "promote": {"line": "champion of home-assistant is version 3, before: version 2"},
    }  # fmt: skip
    for step in done:
        if step != "gate":
            record(store, run_id, step, **records[step])
            continue
        ledger.record(store, digests.sha256_file(tmp / "data" / "test.jsonl"), digest_of(model_ref))
        config = {"policy": load_policy(POLICY).model_dump(mode="json"), "recipe_name": "home-assistant", "cost_per_hour": 0.1}
        refs = {"data": data, "report": report, "baseline": base, "results": measured, "model": model_ref, "adapter": adapter}
        result = gate_step(config, Inputs(refs, store), tmp / "gate")
        verdict = {"verdict": store.put("gate-verdict", tmp / "gate" / "verdict")}
        record(store, run_id, "gate", config=config, inputs=refs, refs=verdict, summary=result.summary, line=result.line, seconds=0.6)
    return run_id


def _file(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "file.txt").write_text(text)
    return directory


def _write_curation(directory: Path, rows: list[dict]) -> None:
    stages, left = [], 4000
    for (stage, reason, count), row in zip(DROPPED, rows, strict=False):
        example = f"{row['messages'][0]['content']} → {row['messages'][1]['content']}"
        reasons = {reason: {"count": count, "examples": [example]}} if count else {}
        stages.append({"stage": stage, "rows_in": left, "rows_out": left - count, "reasons": reasons})
        left -= count
    sizes = {"train": (1400, 1102), "dev": (100, 87), "test": (240, 120)}
    splits = {name: {"rows": count, "clusters": clusters, "digest": sha(name)} for name, (count, clusters) in sizes.items()}
    told = {"rows_in": 4000, "funnel": stages, "clusters": {"count": 1309, "largest": 41}, "leaked_pairs": 0, "splits": splits}
    directory.mkdir(parents=True)
    (directory / "report.json").write_text(json.dumps(told))
