"""A recipe on tiny files (a model directory without real weights, three rows, a policy), and a store on a real S3 server."""

import json

import pytest
import yaml

pytest_plugins = ["tiny_model"]

POLICY = {
    "apiVersion": "tunegate/v1",
    "kind": "PromotionPolicy",
    "name": "tiny",
    "gates": [{"id": "beats", "metric": "task/exact", "versus": "base_zero_shot", "test": "superiority", "margin": 0.05, "min_n": 200}],
}
TINY_LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture
def tiny_recipe(tmp_path):
    """Write the files once and the recipe at each call, with sections replaced; give the recipe's path."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(TINY_LLAMA))
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (base / "model.safetensors").write_bytes(b"no real weights")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(**sections):
        document = {"name": "tiny", "base_model": "base", "data": {"sources": ["rows.jsonl"]}, "policy": POLICY}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(document | {"store": str(tmp_path / "store")} | sections))
        return path

    return write


@pytest.fixture(scope="session")
def s3_server():
    """Start moto's S3 server and give its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """Give a store in a bucket of its own, with a cache of its own."""
    from tunegate import digests
    from tunegate.store import open_store

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "TUNEGATE_CACHE": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{'b' + digests.sha256(str(tmp_path).encode())[:20]}/team/store")
    store.client.create_bucket(Bucket=store.bucket)
    yield store
    store.client.close()
