"""The small server's model, on a tiny real one: batches, stop tokens and log-probabilities."""

import math
import os

import pytest

from tunegate.errors import BadInput
from tunegate.serving.generation import LanguageModel, Sampling


@pytest.fixture(scope="module")
def model(tiny_base):
    return LanguageModel(tiny_base, "float32", 128)


@pytest.fixture(scope="module")
def prompts(model):
    asked = ["turn on the light", "what is up", "please turn off the kitchen fan now please please"]
    return [model.encode_chat([{"role": "user", "content": text}]) for text in asked]


def test_chat_is_encoded_once_and_ready_for_an_answer(model):
    ids = model.encode_chat([{"role": "user", "content": "turn on"}])
    assert model.tokenizer.decode(ids) == "<|im_start|>user\nturn on<|im_end|>\n<|im_start|>assistant\n"


def answers(model, prompts, sampling):
    found = dict(model.generate(prompts, sampling))
    return [found[place] for place in range(len(prompts))]


GREEDY = Sampling(max_tokens=30)


def alone(model, prompts):
    """Answer each prompt with `generate` of transformers and nothing else."""
    import torch

    found = []
    for ids in prompts:
        output = model.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=30)[0, len(ids) :].tolist()
        found.append([token for token in output if token not in model.stop_ids])
    return found


@pytest.fixture
def ragged(model, prompts, monkeypatch):
    """Have answers end at different steps, on a token that one of them does not hold."""
    first, other, _ = (answer.ids for answer in answers(model, prompts, GREEDY))
    monkeypatch.setattr(model, "stop_ids", [next(token for token in first if token not in other), *model.stop_ids])
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", model.stop_ids)


def test_a_batch_answers_as_each_prompt_alone_does(model, prompts, ragged):
    assert prompts[0][:3] == prompts[1][:3] == prompts[2][:3] and len({*map(len, prompts)}) > 1, "a shared beginning, padding after it"
    found = answers(model, prompts, GREEDY)
    assert [answer.ids for answer in found] == alone(model, prompts)
    assert len({answer.completion_tokens for answer in found}) > 1 and all(answer.completion_tokens <= 30 for answer in found)


def test_prompts_that_share_nothing_or_everything_are_answered_alike(model, prompts, ragged):
    for several in ([prompts[0][2:], prompts[2]], [prompts[1], prompts[1]], [prompts[1], prompts[1][:-2]], prompts[:1]):
        assert [answer.ids for answer in answers(model, several, GREEDY)] == alone(model, several)


def test_what_all_begin_with_is_read_once_and_rows_leave_when_they_end(model, prompts, ragged, monkeypatch):
    shapes, forward = [], model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, **k: shapes.append(tuple(k["input_ids"].shape)) or forward(*a, **k))
    found = list(model.generate(prompts, GREEDY))
    shared = len(os.path.commonprefix(prompts))
    assert shapes[:2] == [(1, shared), (3, max(map(len, prompts)) - shared)]
    counts = [answer.completion_tokens for _, answer in found]
    assert counts == sorted(counts), "who ends first is answered first"
    lived = [rows for rows, tokens in shapes[2:]]
    assert lived == sorted(lived, reverse=True) and lived[0] == 3 and lived[-1] < 3
    assert sum(lived) < 3 * (max(counts) - 1), "rows that had ended were not computed on"


def test_a_window_of_attention_is_not_padded_in_the_middle(tmp_path, model, prompts):
    import torch
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=model.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, eos_token_id=model.stop_ids, pad_token_id=model.pad_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    windowed = LanguageModel(tmp_path, "float32", 128)
    assert [answer.ids for answer in answers(windowed, prompts, GREEDY)] == alone(windowed, prompts)


def test_an_answer_ends_before_its_stop_token(model, prompts, monkeypatch):
    (free,) = answers(model, prompts[:1], Sampling(max_tokens=6))
    assert (free.finish_reason, free.completion_tokens) == ("length", 6)
    monkeypatch.setattr(model, "stop_ids", [free.ids[3]])
    (stopped,) = answers(model, prompts[:1], Sampling(max_tokens=6))
    end = free.ids.index(free.ids[3])
    assert (stopped.ids, stopped.finish_reason, stopped.completion_tokens) == (free.ids[:end], "stop", end + 1)


def test_a_seed_repeats_a_sample(model, prompts):
    sampled = [answers(model, prompts[:1], Sampling(20, temperature=1.0, seed=seed))[0].ids for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_score_gives_the_log_probability_of_each_token(model, prompts):
    import torch

    ids = prompts[0]
    scored = model.score(ids, generate_one=True)
    with torch.no_grad():
        loss = model.model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert scored.logprobs[0] is None and scored.best[0] is None
    assert len(scored.tokens) == len(scored.logprobs) == len(ids) + 1
    assert -sum(scored.logprobs[1:-1]) / (len(ids) - 1) == pytest.approx(loss, abs=1e-4)
    assert scored.logprobs[-1] == scored.best[-1][1] <= 0
    assert math.exp(scored.logprobs[-1]) >= 1 / model.vocab_size
    assert len(model.score(ids, generate_one=False).tokens) == len(ids)


def test_a_model_without_chat_template_is_bad_input(tiny_base, tmp_path):
    import shutil

    bare = shutil.copytree(tiny_base, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(BadInput, match="has no chat template"):
        LanguageModel(bare, "float32", 128)


def test_pickled_weights_are_not_read(tiny_base, tmp_path):
    import shutil

    import torch

    pickled = shutil.copytree(tiny_base, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        LanguageModel(pickled, "float32", 128)


def test_what_the_template_refuses_is_bad_input(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadInput, match="roles must alternate"):
        model.encode_chat([{"role": "user", "content": "a"}])
