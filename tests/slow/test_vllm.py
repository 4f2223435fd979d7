"""What vLLM itself does with the settings that it is started with here, on the demo's base model (`make prepare` first)."""

from pathlib import Path

import pytest

from tunegate import recipe
from tunegate.runner import use_serving_environment
from tunegate.serving import chat, identify, serve

BASE = Path(__file__).parents[2] / "runs" / "demo" / "base"
SAMPLED = {"temperature": 1.0, "top_p": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def server():
    use_serving_environment()
    if identify(recipe.Serve())["name"] == "transformers":
        pytest.skip("vLLM is not installed")
    with serve(BASE, recipe.Serve(engine="vllm")) as server:
        yield server


@pytest.mark.slow
def test_many_long_prompts_are_sampled_at_once(server):
    """More tokens come together than one step takes; a split prompt with a seed of its own ended the engine."""
    asked = [[{"role": "user", "content": f"Tell me about number {number}. " + "And think of the sea. " * 60}] for number in range(40)]
    answers = chat(server, asked, 8, concurrency=40, sampling=SAMPLED)
    assert len(answers) == 40 and all(answer.prompt_tokens > 300 for answer in answers)
    assert len({answer.text for answer in answers}) > 30
