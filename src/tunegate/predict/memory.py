"""Predict the peak memory of a training step on one device, tensor by tensor.

Letters: h hidden size, f width of the MLP, a heads times head size, k the same of keys and values, T tokens of the
micro-batch. Counted in the sources of transformers 5.23, PEFT 0.21, TRL 1.16, bitsandbytes 0.50 and PyTorch 2.13. Not covered:
what a memory allocator wastes beyond the flat CONTEXT_BYTES, activation offloading, torch.compile.
"""

from tunegate.predict.devices import GIB
from tunegate.predict.shape import Shape
from tunegate.predict.work import NEVER, SELECTIVE, Work

NF4_BYTES = 0.5 + 4 / 64  # one absmax in float32 per block of 64 weights
NF4_DOUBLE_BYTES = 0.5 + 0.127 / 8  # Dettmers et al. 2023, section 3: 0.127 bits per parameter instead of 0.5
TRAINED_BYTES = 4 + 4 + 8  # weight, gradient and Adam's two moments in float32
CONTEXT_BYTES = 1.0 * GIB  # CUDA context, cuBLAS workspace, fragmentation; arbitrary
PROCESS_BYTES = 0.75 * GIB  # Python with torch, transformers, TRL, PEFT and bitsandbytes imported, on a CPU; tests/benchmarks/memory.py

# TRL's fused head computes logits in tiles of 4096 tokens by 32768 words. On a GPU a kernel works in the tile, in bfloat16; on a
# CPU its backward pass holds the tile, five float32 tensors of its size, three more for a moment, and one of bool; and the
# allocator, told to keep what is freed (train/model.py), two more of the last and smaller tile: measured, see docs/benchmarks.md.
HEAD_TOKENS, HEAD_WORDS = 4096, 32768
HEAD_TILE_GPU = 2
HEAD_TILE_CPU = 2 + 5 * 4 + 3 * 4 + 1 + 2 * 4

# Eager attention, for each head and pair of tokens: the softmax in float32 and in bfloat16 are kept for the backward pass, which
# then holds two gradients in float32 and two in bfloat16.
EAGER_KEPT = 4 + 2
EAGER_PASSING = 4 + 4 + 2 + 2
MASK_BYTES = 1 + 2  # of packed rows under sdpa, once for all layers: bool, and as the kernel wants it


def peak_bytes(work: Work) -> float:
    """Estimate the most that a device holds at once, from loading the model to the optimizer's step."""
    shape, share = work.shape, work.devices if work.sharded else 1
    base = _base_bytes(work)
    held = (base + _trained_bytes(work)) / share
    if work.sharded:
        held += 2 * 2 * shape.block_parameters  # the block at work and the next one, gathered
    elif work.sft.method == "full":
        held += 2 * shape.linear_parameters  # autocast keeps the bfloat16 copy of a float32 weight until the step is over
    kept = _kept_bytes(work)
    block = _passing_bytes(work)
    if work.checkpointing is NEVER:
        activations = shape.layers * kept + max(block, _head_bytes(work))
    else:
        # At each block's door stays its input; one block at a time is computed anew.
        doors = 2 * shape.hidden + (2 * shape.attention if work.checkpointing == SELECTIVE else 0)
        activations = shape.layers * doors * work.tokens + max(kept + block, _head_bytes(work))
    if work.attention == "sdpa":
        activations += MASK_BYTES * work.tokens * work.attended
    if not work.on_cpu:
        return CONTEXT_BYTES + held + activations
    loading = 2 * shape.parameters + base  # the file, mapped and counted as resident as it is read, beside what is made of it
    return PROCESS_BYTES + max(held + activations, loading)


def sampling_bytes(shape: Shape, devices: int, on_cpu: bool) -> float:
    """Estimate what each of `devices` holds of the merged model in 16 bits; what generation adds to it is not counted."""
    return 2 * shape.parameters / devices + (PROCESS_BYTES if on_cpu else CONTEXT_BYTES)


def _base_bytes(work: Work) -> float:
    """Frozen weights; embeddings and head stay in bfloat16."""
    if work.sft.method == "full":
        return 0.0
    per_weight = 2.0
    if work.sft.load_in_4bit:
        per_weight = NF4_DOUBLE_BYTES if work.sft.bnb_4bit_use_double_quant else NF4_BYTES
    return work.shape.linear_parameters * per_weight + work.shape.embedding_parameters * 2


def _trained_bytes(work: Work) -> float:
    """What is trained, its optimizer, and the frozen copy of it that preference training compares with."""
    per_weight = TRAINED_BYTES + (4 if work.devices > 1 and not work.sharded else 0)  # DDP's buckets repeat the gradients
    if work.reference == "held":
        per_weight += 2 if work.sft.method == "full" else 4
    return work.trained * per_weight


def _kept_bytes(work: Work) -> float:
    """What one block keeps for its backward pass."""
    shape, sft, lora = work.shape, work.sft, work.sft.lora
    h, f, a, k = shape.hidden, shape.ffn, shape.attention, shape.key_value
    full = sft.method == "full"
    norms = 2 * (8 if full else 4) * h  # their input in float32; and, to train their weight, their result
    keys = a if work.dense_attention else k  # repeated to the width of the queries, or not
    attention = 2 * (a + 2 * keys + a)  # queries, keys, values, and the result
    mlp = 2 * 3 * f  # gate, its activation, up
    per_token = norms + attention + mlp
    targets = set(shape.linear) if full else shape.targets(lora)
    dropping = lora.dropout > 0 and not full
    for names, width in ((("q_proj", "k_proj", "v_proj"), h), (("o_proj",), a), (("gate_proj", "up_proj"), h), (("down_proj",), f)):
        count = len(targets.intersection(names))
        if dropping:
            # Each adapter drops values of its own: their copy in bfloat16, and the mask (a CPU holds it in the input's type).
            mask = (2 if sft.load_in_4bit else 4) if work.on_cpu else 1
            per_token += count * width * (2 + mask)
        elif names == ("o_proj",) and (full or sft.load_in_4bit):
            pass  # its input is attention's result, counted above
        else:
            # Where the input is float32, or PEFT casts it to that, autocast makes a copy in bfloat16 for each layer that reads it.
            per_token += 2 * width * (min(count, 1) if sft.load_in_4bit else count)
    if lora.use_dora and not full:
        per_token += 2 * 2 * sum(shape.linear[name][1] for name in targets)  # both results, which the magnitude multiplies
    eager = EAGER_KEPT * shape.heads * work.attended if work.holds_scores else 0
    return work.tokens * (per_token + eager)


def _passing_bytes(work: Work) -> float:
    """What the backward pass of one block holds for a moment: gradients, and one weight in 16 bits."""
    shape = work.shape
    largest = max(i * o for i, o in shape.linear.values())
    weight = 2 * largest if work.sft.load_in_4bit else 0
    if work.sft.lora.use_dora and work.sft.method == "lora":
        weight += 2 * 2 * largest  # the product of the adapter's matrices, and its sum with the weight
    eager = EAGER_PASSING * shape.heads * work.attended if work.holds_scores else 0
    # The MLP's three gradients and one result of width f; the residual's and the norms' of width h, these in float32.
    return work.tokens * (2 * 4 * shape.ffn + 12 * shape.hidden + eager) + weight


def _head_bytes(work: Work) -> float:
    """One tile of logits, and the gradient of the last hidden states in float32."""
    tile = min(work.tokens, HEAD_TOKENS) * min(work.shape.vocabulary, HEAD_WORDS)
    weight = 4 * work.shape.head_parameters if work.sft.method == "full" else 0  # its gradient, summed in float32
    return tile * (HEAD_TILE_CPU if work.on_cpu else HEAD_TILE_GPU) + 4 * work.tokens * work.shape.hidden + weight
