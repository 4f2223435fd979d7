"""What the trainer is predicted to choose on a device, what that needs and what it gives."""

from dataclasses import dataclass, replace

from tunegate.predict.devices import GIB, GPUS, Device, this_cpu
from tunegate.predict.memory import peak_bytes, sampling_bytes
from tunegate.predict.shape import Shape
from tunegate.predict.speed import seconds_per_token, tokens_per_second
from tunegate.predict.work import Work, checkpointing_choices, prefer_work, row_choices, sft_work
from tunegate.recipe import Prefer, Recipe, Resources, Sft, Training

ASSUMED = "A100-80"  # where the recipe names no kind: what the field's recipe for an 8B model is written for


@dataclass(frozen=True)
class Choice:
    """What the trainer is predicted to choose for one step on one kind of device."""

    least: Work  # with the smallest micro-batch
    fastest: Work  # of what fits
    largest: int  # rows of the largest micro-batch that fits; 0: none does

    @property
    def need_gib(self) -> float:
        return peak_bytes(self.least) / GIB


@dataclass(frozen=True)
class Outlook:
    """The steps that train on one device kind."""

    device: Device
    sft: Choice
    prefer: Choice | None
    sampling_gib: float  # of the merged model, from which prefer samples, on each device of a pod; 0 without prefer

    @property
    def steps(self) -> dict[str, Choice]:
        return {"sft": self.sft} | ({"prefer": self.prefer} if self.prefer else {})

    @property
    def need_gib(self) -> float:
        """Of training."""
        return max(step.need_gib for step in self.steps.values())

    @property
    def most_gib(self) -> float:
        """Of training or of sampling, whichever needs more."""
        return max(self.need_gib, self.sampling_gib)

    @property
    def fits(self) -> bool:
        return all(step.largest for step in self.steps.values()) and self.sampling_fits

    @property
    def sampling_fits(self) -> bool:
        return self.sampling_gib <= self.device.memory_gib

    @property
    def tokens_per_second(self) -> float:
        """Of sft, with the micro-batch that is predicted to be the fastest."""
        return tokens_per_second(self.sft.fastest, self.device)


@dataclass(frozen=True)
class Asked:
    """The part of a recipe that a prediction reads."""

    shape: Shape
    sft: Sft
    prefer: Prefer
    max_length: int
    devices: int = 1
    nodes: int = 1  # among which the devices are shared out equally

    def on(self, device: Device) -> Outlook:
        devices, nodes = (1, 1) if device.is_cpu else (self.devices, self.nodes)
        preferring = prefer_work(self.shape, self.sft, self.prefer, self.max_length, device)
        return Outlook(
            device,
            _choose(sft_work(self.shape, self.sft, self.max_length, device), self.sft, device, devices, shards=True),
            _choose(preferring, self.prefer, device, devices, shards=False) if preferring else None,
            sampling_bytes(self.shape, devices // nodes, device.is_cpu) / GIB if preferring else 0.0,
        )


def asked(shape: Shape, recipe: Recipe) -> Asked:
    return Asked(shape, recipe.sft, recipe.prefer, recipe.task.max_length, device_count(recipe.resources), recipe.resources.nodes)


def recipe_device(resources: Resources) -> Device:
    """Give the device that a recipe trains on, with the recipe's own figures where it has some."""
    kind = resources.gpu_kind or (ASSUMED if resources.gpus else "cpu")
    given = {
        "memory_gib": resources.gpu_memory_gib, "tflops": resources.gpu_tflops, "utilisation": resources.utilisation,
        "hourly_price": resources.hourly_price / max(1, resources.gpus if kind != "cpu" else 1),
    }  # fmt: skip
    return replace(this_cpu() if kind == "cpu" else GPUS[kind], **{name: value for name, value in given.items() if value is not None})


def device_count(resources: Resources) -> int:
    """Count the devices that train together; training on several CPUs is not predicted."""
    return 1 if resources.gpu_kind == "cpu" else max(1, resources.gpus) * resources.nodes


def _choose(work: Work, training: Training, device: Device, devices: int, shards: bool) -> Choice:
    """Try in the trainer's order: weights on every device before sharded ones, without checkpointing before with it.

    Args:
        shards: whether this training can be sharded; see tunegate.train.sharding.
    """
    work = replace(work, devices=devices)
    rows = row_choices(training, devices)
    least = []
    for sharded in (False, True) if shards and devices > 1 else (False,):
        for checkpointing in checkpointing_choices(training):
            tried = [replace(work, rows=count, checkpointing=checkpointing, sharded=sharded) for count in rows]
            fitting = [one for one in tried if peak_bytes(one) <= device.memory]
            if fitting:
                return Choice(tried[0], min(fitting, key=lambda one: (seconds_per_token(one, device), -one.rows)), fitting[-1].rows)
            least.append(tried[0])
    smallest = min(least, key=peak_bytes)
    return Choice(smallest, smallest, 0)
