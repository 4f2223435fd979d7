"""Say what is predicted: lines about the recipe's own device, and a table of all kinds. All of it is estimated."""

from tunegate.predict.devices import GIB, GPUS, Device, this_cpu
from tunegate.predict.outlook import ASSUMED, Choice, Outlook, asked, device_count, recipe_device
from tunegate.predict.refuse import refuse_if_too_large
from tunegate.predict.shape import Shape
from tunegate.predict.speed import tokens_per_second
from tunegate.recipe import Recipe, Training

MILLION = 1e6


def refuse_or_predict(shape: Shape, recipe: Recipe) -> Outlook:
    """Predict for the device that the recipe trains on.

    Raises:
        BadInput: it cannot fit; the sentence names what would.
    """
    return refuse_if_too_large(asked(shape, recipe), recipe_device(recipe.resources))


def sft_tokens(recipe: Recipe) -> float | None:
    """Bound the tokens of supervised fine-tuning from above: every row as long as allowed. None where the rows are unknown."""
    if recipe.curate.max_train_rows is None:
        return None
    replayed = recipe.sft.replay_share if recipe.baseline.replay_data or recipe.baseline.replay_prompts else 0
    return recipe.curate.max_train_rows * (1 + replayed) * recipe.task.max_length * recipe.sft.num_train_epochs


def facts(shape: Shape, recipe: Recipe, outlook: Outlook) -> list[tuple[str, str]]:
    """Say what the recipe's own device would need and give, and whether its budgets would do."""
    device, resources = outlook.device, recipe.resources
    said = [("training device", _device_line(recipe, device))]
    for name, step in outlook.steps.items():
        said.append((f"{name} memory", _memory_line(step, device)))
    hour = resources.hourly_price * resources.nodes
    rate = outlook.tokens_per_second
    said.append(("sft speed", f"{_number(rate)} tokens/s, {_time_line(recipe, rate, hour)} (estimate)"))
    for name, step in outlook.steps.items():
        section = getattr(recipe, name)
        said += _budget_lines(name, section, recipe, tokens_per_second(step.fastest, device), hour)
    merged = 2 * shape.parameters
    if outlook.prefer and merged > device.memory:
        said.append(
            ("prefer sampling", f"from the merged model in 16 bits, {merged / GIB:.1f} GiB, divided among the GPUs of a pod (estimate)")
        )
    return said


def table(shape: Shape, recipe: Recipe) -> list[str]:
    """Lay out what each kind of device would need and give; > marks the recipe's, with the recipe's own figures."""
    own, wanted, tokens = recipe_device(recipe.resources), asked(shape, recipe), sft_tokens(recipe)
    work = "at most, for sft" if tokens else "for each million tokens of sft"
    header = ("estimates", "fits", "GiB needed", "GiB there", "checkpointing", "rows at most", "tokens/s", "hours", "cost")
    lines = [header]
    for kind in [*GPUS.values(), this_cpu()]:
        is_own = kind.kind == own.kind
        name = f"{'>' if is_own else ' '} {'this CPU' if kind.is_cpu else kind.kind}"
        cells = _cells(wanted.on(own if is_own else kind), tokens, 1 if kind.is_cpu else wanted.devices)
        lines.append((name, *cells))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    laid = ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]) for line in lines]
    devices = "" if wanted.devices == 1 else f"; of {wanted.devices} devices, taken to scale without loss"
    return [*laid, f"  hours and cost {work}{devices}; prices other than the recipe's are arbitrary"]


def _cells(outlook: Outlook, tokens: float | None, devices: int) -> tuple[str, ...]:
    device, step = outlook.device, max(outlook.steps.values(), key=lambda one: one.need_gib)
    least = (f"{outlook.most_gib:.1f}", f"{device.memory_gib:.1f}", _checkpointing(step))
    if not outlook.fits:
        return ("no", *least, "-", "-", "-", "-")
    hours = (tokens or MILLION) / outlook.tokens_per_second / 3600
    cost = hours * device.hourly_price * devices
    return ("yes", *least, str(outlook.sft.largest), _number(outlook.tokens_per_second), _amount(hours), _amount(cost))


def _device_line(recipe: Recipe, device: Device) -> str:
    count = device_count(recipe.resources)
    name = "this CPU" if device.is_cpu else f"{count} × {device.kind}"
    assumed = "" if recipe.resources.gpu_kind or device.is_cpu else f"; resources.gpu_kind is not set, {ASSUMED} is assumed"
    each = " each" if count > 1 else ""
    return f"{name}, {device.memory_gib:.1f} GiB{each}, {device.tflops:.3g} TFLOP/s used to {device.utilisation:.0%}{assumed}"


def _memory_line(step: Choice, device: Device) -> str:
    work = step.least
    batch = f"{work.rows} row{'s' if work.rows > 1 else ''} of {work.max_length} tokens at a time"
    how = {False: "without checkpointing", True: "with checkpointing", "selective": "with selective checkpointing"}[work.checkpointing]
    sharded = ", weights sharded" if work.sharded else ""
    most = f"; at most {step.largest} rows fit" if step.largest > work.rows else ""
    return f"at least {step.need_gib:.1f} of {device.memory_gib:.1f} GiB: {batch}, {how}{sharded}{most} (estimate)"


def _time_line(recipe: Recipe, rate: float, hour: float) -> str:
    tokens = sft_tokens(recipe)
    if tokens is None:
        thousand = 1000 * recipe.task.max_length / rate / 3600
        million = MILLION / rate / 3600
        return (
            f"{_amount(million)} h and a cost of {_amount(million * hour)} for each million tokens, {_amount(thousand)} h for 1,000 rows "
            f"of {recipe.task.max_length} tokens; how many rows there will be is not known before curation"
        )
    hours = tokens / rate / 3600
    return f"at most {_amount(hours)} h and a cost of {_amount(hours * hour)}, if all rows were {recipe.task.max_length} tokens long"


def _budget_lines(name: str, section: Training, recipe: Recipe, rate: float, hour: float) -> list[tuple[str, str]]:
    limits = []
    if section.max_hours is not None:
        limits.append((f"{name}.max_hours", section.max_hours, f"{section.max_hours:g} h"))
    if section.max_cost is not None and hour > 0:
        limits.append(
            (f"{name}.max_cost", section.max_cost / hour, f"a cost of {section.max_cost:g} ({_amount(section.max_cost / hour)} h)")
        )
    tokens = sft_tokens(recipe) if name == "sft" else None
    return [(key, _budget_line(text, hours, tokens, rate, name, recipe)) for key, hours, text in limits]


def _budget_line(text: str, hours: float, tokens: float | None, rate: float, name: str, recipe: Recipe) -> str:
    if tokens is None:
        bought = hours * 3600 * rate
        epochs = getattr(recipe, name).num_train_epochs
        unit, length = (
            ("pairs", 2 * recipe.task.max_length)
            if name == "prefer" and recipe.prefer.method != "kto"
            else ("rows", recipe.task.max_length)
        )
        count = f"{bought / length / epochs:,.0f} {unit} of {length} tokens"
        apart = ", sampling them not counted" if name == "prefer" else ""
        return f"{text} is enough for {count} in {epochs:g} epoch{'' if epochs == 1 else 's'}{apart} (estimate)"
    needed = tokens / rate / 3600
    if needed <= hours:
        return f"{text} is enough: at most {_amount(needed)} h are predicted (estimate)"
    return (
        f"{text} is exceeded by up to {_amount(needed - hours)} h: at most {_amount(needed)} h are predicted, and training would stop "
        f"after {hours / needed:.0%} of it (estimate)"
    )


def _checkpointing(step: Choice) -> str:
    return {False: "off", True: "on", "selective": "selective"}[step.least.checkpointing]


def _number(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _amount(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"
