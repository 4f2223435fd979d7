"""See how much memory QLoRA of a 70B model holds, and how fast it is.

    PYTHONPATH=src python tests/gpu/memory_70b.py [--size tiny] [--max-length N]

One packed row at a time, adapters of rank 16 on all linear layers, NF4 with double quantisation. The device needs some 48 GiB.
"""

import sys

from bench import Bench, parser
from memory_24gib import fixed

MAX_LENGTH = 2048


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__, "70b")
    made.add_argument("--max-length", type=int, help=f"tokens in a packed row (default: {MAX_LENGTH})")
    bench = Bench("QLoRA of 70B", arguments := made.parse_args(argv))
    max_length = arguments.max_length or bench.scale(MAX_LENGTH, 64)
    done = fixed(bench, f"checkpointing, 1 × {max_length}", 1, max_length, True)
    fixed(bench, f"selective, 1 × {max_length}", 1, max_length, "selective")
    print(bench.table())
    bench.goal("Memory of the device", done.held_gib if done else None, 48, below=True, unit=" GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
