"""Whole weights on each GPU, or a part: whole where they fit, and where the recipe says so."""

import json
import math

import pytest

from tunegate.errors import BadInput
from tunegate.recipe import Sft
from tunegate.train import sharding

GIB = 2**30
LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv(sharding.FLAG, "false")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    return tmp_path


@pytest.mark.parametrize(
    ("fsdp", "processes", "gib", "wanted"),
    [
        ("auto", 4, 24, True), ("auto", 4, 141, False), ("auto", 1, 24, False), (True, 2, 141, True), (False, 4, 24, False),
        ("auto", 4, math.inf, False),
    ],
)  # fmt: skip
def test_weights_are_divided_where_they_do_not_fit_or_the_recipe_says_so(base, fsdp, processes, gib, wanted):
    assert sharding.decide(Sft(fsdp=fsdp), 1024, base, processes, gib * GIB) is wanted
    assert sharding.sharded() is wanted
    assert bool(sharding.arguments(True)) is wanted


def test_fsdp_recomputes_in_its_own_way(base):
    sharding.decide(Sft(fsdp=True), 1024, base, 2, 141 * GIB)
    assert sharding.arguments("selective")["fsdp_config"]["activation_checkpointing"] is True
    assert sharding.arguments(False)["fsdp_config"]["activation_checkpointing"] is False
    assert sharding.arguments(True)["activation_checkpointing"] is False


def test_what_cannot_be_sharded_is_refused(base):
    with pytest.raises(BadInput, match="this training has one GPU"):
        sharding.decide(Sft(fsdp=True), 1024, base, 1, 24 * GIB)
    with pytest.raises(BadInput, match="holds nowhere whole"):
        sharding.decide(Sft(fsdp=True, early_stopping_patience=2), 1024, base, 2, 24 * GIB)


def test_a_model_of_unknown_build_is_not_sharded_by_itself(base):
    (base / "config.json").write_text("{}")
    assert not sharding.decide(Sft(), 1024, base, 4, GIB)
