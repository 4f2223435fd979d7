"""What cannot fit is refused with what would; what fits is chosen in the trainer's order."""

import re
from dataclasses import replace
from typing import get_args

import pytest
from predicted_models import CPU, SHAPES

from tunegate.errors import BadInput
from tunegate.predict.devices import GPUS
from tunegate.predict.outlook import Asked, recipe_device
from tunegate.predict.refuse import refuse_if_too_large
from tunegate.predict.shape import Shape
from tunegate.recipe import Prefer, Resources, Sft

NONE = Prefer(method="none")


def asked(model="Llama-3.1-8B", length=1024, prefer=NONE, devices=1, **sft):
    return Asked(SHAPES[model], Sft(**sft), prefer, length, devices)


def refusal(given, device):
    with pytest.raises(BadInput) as caught:
        refuse_if_too_large(given, device)
    return str(caught.value)


def test_without_checkpointing_is_tried_first():
    small, large = (asked().on(GPUS[kind]).sft for kind in ("A100-40", "A100-80"))
    assert small.least.checkpointing is large.least.checkpointing is False
    assert small.largest < large.largest <= 32
    assert asked(length=2048).on(GPUS["L4"]).sft.least.checkpointing is True
    assert asked(gradient_checkpointing="selective").on(GPUS["L4"]).sft.least.checkpointing == "selective"


def test_a_micro_batch_divides_the_rows_of_a_step():
    largest = asked(train_batch_size=12).on(GPUS["H200"]).sft.largest
    assert 12 % largest == 0
    assert asked(train_batch_size=12, devices=4).on(GPUS["H200"]).sft.largest <= 3
    assert asked(per_device_train_batch_size=5).on(GPUS["H200"]).sft.largest == 5


def test_the_hungrier_step_is_named():
    said = refusal(asked(prefer=Prefer(per_device_train_batch_size=8, gradient_checkpointing=False)), GPUS["A100-40"])
    assert "GiB by our estimate (prefer, 8 rows of 1024 tokens at a time), and resources gives a GPU (A100-40) of 39.4 GiB" in said
    assert "prefer.gradient_checkpointing: true" in said and "prefer.per_device_train_batch_size: 1" in said
    assert "sft." not in said.partition("What would fit")[2]


@pytest.mark.parametrize(
    "given, kind, remedies",
    [
        (asked(gradient_checkpointing=False, length=2048), "L4", ["sft.gradient_checkpointing: true", "task.max_length: 1024", "gpu_kind"]),
        (asked(per_device_train_batch_size=64, gradient_checkpointing=True), "L4", ["per_device_train_batch_size: 1", "gpu_kind: A100-80"]),
        (asked("Llama-3.1-70B", load_in_4bit=False), "A100-80", ["sft.load_in_4bit: true", "resources.gpus: 2", "FSDP"]),
        (asked(method="full", load_in_4bit=False), "A100-80", ["sft.method: lora", "resources.gpus: 2", "gpu_kind: H200"]),
        (
            asked(method="full", load_in_4bit=False, per_device_train_batch_size=64), "A10G",
            ["sft.method: lora, sft.load_in_4bit: true, sft.per_device_train_batch_size: 1 ("],
        ),
        (asked("Llama-3.1-70B"), "A100-40", ["resources.gpus: 2", "resources.gpu_kind: A100-80"]),
    ],
)  # fmt: skip
def test_what_would_fit_is_named(given, kind, remedies):
    said = refusal(given, GPUS[kind])
    for remedy in remedies:
        assert remedy in said.partition("What would fit")[2]


def test_every_remedy_with_a_size_fits():
    given = asked(gradient_checkpointing=False, per_device_train_batch_size=16, load_in_4bit=False)
    said = refusal(given, GPUS["L4"]).partition("What would fit")[2]
    for size in re.findall(r"(?:true|1|\d+) \(([\d.]+) GiB\)", said):
        assert float(size) <= GPUS["L4"].memory_gib


def test_what_nothing_fits_is_said():
    huge = Asked(SHAPES["Llama-3.1-70B"], Sft(), NONE, 1024)
    assert "resources.gpu_kind: A100-80" in refusal(huge, CPU)
    giant = Shape(65536, 262144, 200, 512, 65536, 8192, 128256, False)
    assert "choose a smaller base model" in refusal(Asked(giant, Sft(), NONE, 1024), GPUS["L4"])


def test_several_gpus_repeat_the_weights_unless_they_must_be_shared():
    assert not asked(devices=4).on(GPUS["A100-80"]).sft.least.sharded
    assert asked("Llama-3.1-70B", devices=4).on(GPUS["L4"]).sft.least.sharded
    one, four = (asked(devices=count).on(GPUS["A100-80"]).tokens_per_second for count in (1, 4))
    assert 3.5 * one < four < 4.5 * one


def test_preference_training_is_not_sharded_and_plan_says_what_to_do():
    given = asked("Llama-3.1-70B", prefer=Prefer(), devices=4, load_in_4bit=False)
    outlook = given.on(GPUS["A100-80"])
    assert outlook.sft.least.sharded and outlook.sft.largest and not outlook.prefer.least.sharded and not outlook.prefer.largest
    said = refusal(given, GPUS["A100-80"])
    assert "(prefer, 1 row of 1024 tokens at a time)" in said
    assert "prefer.method: none" in said and "sft.load_in_4bit: true" in said and "FSDP" not in said


@pytest.mark.parametrize("devices, nodes, fits", [(1, 1, False), (2, 1, True), (2, 2, False), (4, 2, True)])
def test_the_merged_model_is_sampled_from_on_all_gpus_of_a_pod(devices, nodes, fits):
    """70 billion weights are 131.4 GiB in 16 bits: two GPUs of 79.1 GiB hold them, if they are in one pod."""
    given = replace(asked("Llama-3.1-70B", prefer=Prefer(), devices=devices), nodes=nodes)
    outlook = given.on(GPUS["A100-80"])
    assert outlook.prefer.largest and outlook.fits is fits
    assert outlook.sampling_gib == pytest.approx(131.4 * nodes / devices + 1, abs=0.1)
    if not fits:
        said = refusal(given, GPUS["A100-80"])
        assert "samples from the merged model in 16 bits" in said and "gives 1 (A100-80) of 79.1 GiB" in said
        assert "resources.gpus: 2 (" in said and "prefer.method: none (" in said
        assert not replace(given, prefer=NONE).on(GPUS["A100-80"]).sampling_gib


def test_a_recipe_overrides_what_a_kind_has():
    kinds = {name for part in get_args(Resources.model_fields["gpu_kind"].annotation) for name in get_args(part)}
    assert kinds == {*GPUS, "cpu"}
    assert recipe_device(Resources()).kind == "A100-80"
    assert recipe_device(Resources(gpus=0)).is_cpu
    own = recipe_device(Resources(gpu_kind="L4", gpu_memory_gib=20, gpu_tflops=60, utilisation=0.3, hourly_price=8, gpus=4))
    assert (own.memory_gib, own.tflops, own.utilisation, own.hourly_price, own.bandwidth) == (20, 60, 0.3, 2, 0.3)
