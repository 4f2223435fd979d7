"""Refuse what cannot fit, and name what would."""

from collections.abc import Iterator
from dataclasses import replace

from tunegate.errors import BadInput
from tunegate.predict.devices import GPUS, Device
from tunegate.predict.outlook import Asked, Outlook

SHORTEST = 128  # tokens; shorter rows than this are no remedy. Arbitrary
MORE_GPUS = (2, 4, 8)  # that machines are sold with

Change = dict[str, dict[str, object]]  # section -> key -> value
NO_PREFERENCE: Change = {"prefer": {"method": "none"}}  # it holds all weights on each GPU, where sft can shard them


def refuse_if_too_large(asked: Asked, device: Device) -> Outlook:
    """Return the outlook on `device`, or refuse with what would fit.

    Raises:
        BadInput: even the smallest micro-batch exceeds the device's memory.
    """
    outlook = asked.on(device)
    if outlook.fits:
        return outlook
    if all(step.largest for step in outlook.steps.values()):
        raise BadInput(
            f"prefer needs at least {outlook.sampling_gib:.1f} GiB on each GPU by our estimate: it samples from the merged model in 16 "
            f"bits, divided among the GPUs of one pod, and resources gives {asked.devices // asked.nodes} ({device.kind}) of "
            f"{device.memory_gib:.1f} GiB. {_advice(asked, device)}"
        )
    name, step = max(outlook.steps.items(), key=lambda item: item[1].need_gib)
    has = "this machine has" if device.is_cpu else f"resources gives a GPU ({device.kind}) of"
    rows = "1 row" if step.least.rows == 1 else f"{step.least.rows} rows"
    raise BadInput(
        f"Training needs at least {step.need_gib:.1f} GiB by our estimate ({name}, {rows} of {asked.max_length} tokens at a time), and "
        f"{has} {device.memory_gib:.1f} GiB. {_advice(asked, device)}"
    )


def _advice(asked: Asked, device: Device) -> str:
    fitting = list(_what_would_fit(asked, device))
    if not fitting:
        return "Nothing we know would fit it; choose a smaller base model."
    return f"What would fit: {'; '.join(fitting)}."


def _what_would_fit(asked: Asked, device: Device) -> Iterator[str]:
    """Name each setting that is enough by itself, or else all of them together; then more GPUs, then a larger kind."""
    changes = _changes(asked)
    fitting = [change for change in changes if _apply(asked, change).on(device).fits]
    if changes and not fitting:
        everything = _joined(*changes)
        fitting += [everything] if _apply(asked, everything).on(device).fits else _shorter(asked, everything, device)
    fitting += _shorter(asked, {}, device)
    for change in fitting:
        yield f"{_text(change)} ({_apply(asked, change).on(device).most_gib:.1f} GiB)"
    if asked.prefer.method != "none":
        outlook = _apply(asked, NO_PREFERENCE).on(device)
        if outlook.fits:
            yield f"{_text(NO_PREFERENCE)} ({outlook.need_gib:.1f} GiB)"
    if device.is_cpu:
        larger = GPUS.values()
    else:
        outlooks = (
            (count, replace(asked, devices=count * asked.nodes).on(device)) for count in MORE_GPUS if count * asked.nodes > asked.devices
        )
        enough = next(((count, outlook) for count, outlook in outlooks if outlook.fits), None)
        if enough:
            how = ", with sharded weights (FSDP; " if enough[1].sft.least.sharded else " ("
            yield f"resources.gpus: {enough[0]}{how}{enough[1].most_gib:.1f} GiB on each)"
        larger = (gpu for gpu in GPUS.values() if gpu.memory_gib > device.memory_gib)
    for gpu in sorted(larger, key=lambda gpu: gpu.memory_gib):
        outlook = asked.on(gpu)
        if outlook.fits:
            yield f"resources.gpu_kind: {gpu.kind} ({outlook.most_gib:.1f} of {gpu.memory_gib:.1f} GiB)"
            break


def _changes(asked: Asked) -> list[Change]:
    """List the settings that could ask for less memory, one change at a time."""
    changes: list[Change] = []
    if asked.sft.method == "full":
        changes += [{"sft": {"method": "lora"}}, {"sft": {"method": "lora", "load_in_4bit": True}}]
    elif not asked.sft.load_in_4bit:
        changes.append({"sft": {"load_in_4bit": True}})
    sections = {"sft": asked.sft} | ({"prefer": asked.prefer} if asked.prefer.method != "none" else {})
    for key in ("gradient_checkpointing", "per_device_train_batch_size"):
        least = {name: True if key == "gradient_checkpointing" else section.rows_together for name, section in sections.items()}
        named = [name for name, section in sections.items() if getattr(section, key) not in ("auto", least[name])]
        if named:
            changes.append({name: {key: least[name]} for name in named})
    return changes


def _shorter(asked: Asked, change: Change, device: Device) -> list[Change]:
    """Add the longest rows that fit, by halving; nothing where none do."""
    length = asked.max_length // 2
    while length >= SHORTEST:
        shorter = _joined(change, {"task": {"max_length": length}})
        if _apply(asked, shorter).on(device).fits:
            return [shorter]
        length //= 2
    return []


def _joined(*changes: Change) -> Change:
    out: Change = {}
    for change in changes:
        for section, values in change.items():
            out[section] = {**out.get(section, {}), **values}
    return out


def _apply(asked: Asked, change: Change) -> Asked:
    return replace(
        asked,
        sft=asked.sft.model_copy(update=change.get("sft")),
        prefer=asked.prefer.model_copy(update=change.get("prefer")),
        max_length=change.get("task", {}).get("max_length", asked.max_length),
    )


def _text(change: Change) -> str:
    return ", ".join(f"{section}.{key}: {str(value).lower()}" for section, values in change.items() for key, value in values.items())
