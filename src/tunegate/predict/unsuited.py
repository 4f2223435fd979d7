"""Refuse what no device can train: a base that is quantised already, and preferences without an adapter to go on with."""

from tunegate.errors import BadInput
from tunegate.recipe import Sft


def refuse_quantised(config: dict, name: str) -> None:
    """Refuse a base by what its config.json says; training quantises 16-bit weights itself, and merge adds the adapter to these.

    Raises:
        BadInput: with the format that the weights are in.
    """
    saved = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    if not saved:
        return
    bits = saved.get("bits") or (4 if saved.get("load_in_4bit") else 8 if saved.get("load_in_8bit") else None)
    method = saved.get("quant_method", "a format of its own")
    raise BadInput(
        f"The base model {name} is already quantised to {f'{bits} bits ({method})' if bits else method}. Give its 16-bit weights, since "
        "merge needs them; sft.load_in_4bit trains on these in 4 bits."
    )


def refuse_full(sft: Sft) -> None:
    """Refuse to prefer after sft has trained all weights.

    Raises:
        BadInput: always then.
    """
    if sft.method == "full":
        raise BadInput("prefer goes on with an adapter, and sft.method is full. Set prefer.method: none, or sft.method: lora.")
