"""Measure how much a question helps the base model to its answer: instruction-following difficulty, IFD.

    IFD = exp(mean loss of the answer given its question) / exp(mean loss of the answer given an empty question)

That is the ratio of perplexities of Superfiltering (Li et al., ACL 2024, arXiv 2402.00530), here with the base model itself.
Near 0 the answer follows from the question; at 1 or more the question does not help, so it is probably not this answer's.
Both are rendered by the model's own chat template, with the same system prompt and tools: what differs is the question alone. (The
papers compare with the bare text of the answer, where an instruct model also gains from being told that an assistant speaks,
whatever was asked: that tells misplaced answers less well, see docs/benchmarks.md.) The loss is over the answer's tokens
without the end of the turn, which the template puts there.

Not covered: answers of a few tokens (labels, names), whose ratio is noise and which are not scored; answers in a form that
the base model has never seen, which look hard whatever the question.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tunegate import rows as row_form
from tunegate.curate.progress import saying
from tunegate.curate.row_stages import Context
from tunegate.digests import canonical_json, digest_json, sha256_file, write_atomic
from tunegate.errors import BadInput
from tunegate.recipe import Curate, Ifd
from tunegate.steps import say

Losses = tuple[float, float]  # mean loss in nats per token: given the question, given an empty one


@dataclass(frozen=True)
class Example:
    """One row in tokens: `tokens[:asked]` is the rendered question, the rest the answer without its end of turn.

    `empty` is the question rendered with nothing in it.
    """

    id: str
    tokens: list[int]
    asked: int
    empty: list[int]

    @property
    def answer(self) -> list[int]:
        return self.tokens[self.asked :]


def off(config: Curate, context: Context) -> str:
    if not config.quality.ifd.enabled:
        return "curate.quality.ifd.enabled is false"
    if find_spec("torch") is None:
        raise BadInput("curate.quality.ifd.enabled needs torch where curate runs. Give curate the training image, or set it to false.")
    return "" if context.base else "it needs the base model, and none was given"


def score_ifd(
    rows: list[dict], base: Path, settings: Ifd, cache: Path | None = None, say_progress: Callable[[str], None] = say, *, system: str = ""
) -> dict[str, float]:
    """Give {row id: IFD} for the rows whose answer has settings.min_answer_tokens or more.

    The numbers depend on the rows, the model, the settings and the machine, not on what was cached: a bfloat16 loss differs
    in its last digits with the rows that share its batch, so a batch is taken from the cache as a whole or scored again.

    Args:
        cache: a JSONL file that grows batch by batch; a scoring that was interrupted goes on from there.
        system: the task's system prompt, for rows that have none of their own.

    Raises:
        BadInput: the base has no chat template, or its loss on a row is not a number.
        Refused: its template does not fit training (see train.examples.chat_example).
    """
    from tunegate.train.model import load_tokenizer

    tokenizer = load_tokenizer(base)
    with saying("ifd", len(rows), say_progress) as progress:
        examples = _examples(rows, tokenizer, system, settings.min_answer_tokens)
        progress.total = len(examples)
        where = _where(base)
        batches = {_key(batch, where): batch for batch in plan_batches(examples, settings.batch_tokens)}
        found = read_cache(cache, batches) if cache else {}
        progress.done = sum(len(losses) for losses in found.values())
        for key, losses in _score({key: batch for key, batch in batches.items() if key not in found}, base):
            if cache:
                with open(cache, "ab") as file:
                    file.write(_cache_lines(key, losses))
            found[key] = losses
            progress.done += len(losses)
    pairs = sorted((id_, pair) for losses in found.values() for id_, pair in losses.items())
    return {id_: math.exp(given - unasked) for id_, (given, unasked) in pairs}


def plan_batches(examples: list[Example], batch_tokens: int) -> list[list[Example]]:
    """Put examples of like length together, as many as fit `batch_tokens` with their padding, longest first.

    Longest first, because what does not fit into memory then fails at once.
    """
    batches: list[list[Example]] = []
    for example in sorted(examples, key=lambda e: (-len(e.tokens), -len(e.answer), e.id)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tokens) <= batch_tokens:
            batches[-1].append(example)
        else:
            batches.append([example])
    return batches


def read_cache(cache: Path, batches: dict[str, list[Example]]) -> dict[str, dict[str, Losses]]:
    """Give the losses of the batches that are whole in the cache, and write it anew without anything else."""
    found: dict[str, dict[str, Losses]] = {}
    for line in cache.read_bytes().splitlines() if cache.is_file() else []:
        try:
            entry = json.loads(line)
            found.setdefault(entry["batch"], {})[entry["id"]] = entry["given"], entry["unasked"]
        except (ValueError, KeyError):  # the last line of a scoring that was killed while it wrote, or a line of an older form
            continue
    whole = {key: found[key] for key, batch in batches.items() if found.get(key, {}).keys() == {example.id for example in batch}}
    write_atomic(cache, b"".join(_cache_lines(key, losses) for key, losses in whole.items()))
    return whole


def _cache_lines(key: str, losses: dict[str, Losses]) -> bytes:
    lines = [canonical_json({"batch": key, "id": id_, "given": given, "unasked": unasked}) for id_, (given, unasked) in losses.items()]
    return b"".join(line + b"\n" for line in lines)


def _examples(rows: list[dict], tokenizer, system: str, min_answer_tokens: int) -> list[Example]:
    from tunegate.train.examples import IGNORED, chat_example

    @functools.cache
    def empty(system: str, tools: str) -> list[int]:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": ""})
        return tokenizer.apply_chat_template(turns, tools=json.loads(tools), add_generation_prompt=True, return_dict=True)["input_ids"]

    made = {}
    for row in rows:
        chat, tools = row_form.chat(row, system), row_form.tools(row)
        rendered = chat_example(chat, row["messages"][-1], tokenizer, tools)
        asked = rendered["labels"].count(IGNORED)
        unasked = empty(chat[0]["content"] if chat[0]["role"] == "system" else "", json.dumps(tools))
        example = Example(row["id"], rendered["input_ids"][:-1], asked, unasked)
        if len(example.answer) >= min_answer_tokens:
            made[row["id"]] = example
    return list(made.values())


def _where(base: Path) -> str:
    """Name the model, and the machine as far as its numbers depend on it."""
    import torch

    from tunegate.train.model import device

    files = {str(path.relative_to(base)): sha256_file(path) for path in sorted(base.rglob("*")) if path.is_file()}
    machine = torch.cuda.get_device_name() if device() == "cuda" else f"cpu with {torch.get_num_threads()} threads"
    return digest_json([files, torch.__version__, machine])


def _key(batch: list[Example], where: str) -> str:
    return digest_json([where, [[example.id, example.tokens, example.asked, example.empty] for example in batch]])


def _score(batches: dict[str, list[Example]], base: Path) -> Iterator[tuple[str, dict[str, Losses]]]:
    """Give the losses of one batch after the other; the model is only loaded when there is one."""
    from tunegate.train.model import load_base

    model = load_base(base, attention="sdpa").eval() if batches else None
    for key, batch in batches.items():
        given = _mean_losses(model, [(example.tokens, example.asked) for example in batch])
        unasked = _mean_losses(model, [(example.empty + example.answer, len(example.empty)) for example in batch])
        losses = {example.id: pair for example, pair in zip(batch, zip(given, unasked, strict=True), strict=True)}
        if broken := [id_ for id_, pair in losses.items() if not all(map(math.isfinite, pair))]:
            raise BadInput(f"The loss of the base model in {base} is not a number on row {broken[0][:12]}: its weights are damaged.")
        yield key, losses


def _mean_losses(model, sequences: list[tuple[list[int], int]]) -> list[float]:
    """Give the mean loss in nats of each sequence's tokens from its start on. Shapes: b sequences, s tokens, v words."""
    import torch

    first, longest = min(start for _, start in sequences), max(len(tokens) for tokens, _ in sequences)
    ids = torch.zeros((len(sequences), longest), dtype=torch.long)  # [b, s]
    mask = torch.zeros_like(ids)
    for place, (tokens, _) in enumerate(sequences):
        ids[place, : len(tokens)] = torch.tensor(tokens)
        mask[place, : len(tokens)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    # The head is as large as all layers of a small model: only the places that predict an answer go through it.
    keep = torch.arange(first - 1, longest - 1, device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep, use_cache=False).logits  # [b, s', v]
        losses = [
            torch.nn.functional.cross_entropy(logits[place, start - first : len(tokens) - first].float(), ids[place, start : len(tokens)])
            for place, (tokens, start) in enumerate(sequences)
        ]
        return torch.stack(losses).tolist()
