"""The small server's model, on a tiny real one: batches, stop tokens and log-probabilities."""

import math

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


def test_a_batch_answers_as_each_prompt_alone_does(model, prompts):
    greedy = Sampling(max_tokens=12)
    together = model.generate(prompts, greedy)
    assert [answer.ids for answer in together] == [model.generate([ids], greedy)[0].ids for ids in prompts]
    assert all(answer.completion_tokens <= 12 for answer in together)


def test_an_answer_ends_before_its_stop_token(model, prompts, monkeypatch):
    (free,) = model.generate(prompts[:1], Sampling(max_tokens=6))
    assert (free.finish_reason, free.completion_tokens) == ("length", 6)
    monkeypatch.setattr(model, "stop_ids", [free.ids[3]])
    (stopped,) = model.generate(prompts[:1], Sampling(max_tokens=6))
    end = free.ids.index(free.ids[3])
    assert (stopped.ids, stopped.finish_reason, stopped.completion_tokens) == (free.ids[:end], "stop", end + 1)


def test_a_seed_repeats_a_sample(model, prompts):
    sampled = [model.generate(prompts[:1], Sampling(20, temperature=1.0, seed=seed))[0].ids for seed in (1, 1, 2)]
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
