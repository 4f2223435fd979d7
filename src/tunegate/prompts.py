"""Build the prompts of each arm: the base model zero-shot and few-shot, and the candidate.

The base model gets the fuller `task.zero_shot_system` where there is one, in both of its arms: a baseline that is told less
than it could be told is not a fair one. The candidate gets `task.system` only, the prompt it was trained with and will be
served with.

What a row's tools are goes beside its turns (`tools_of`), since a chat template renders them in a place of its own.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable

from tunegate import digests, rows
from tunegate.errors import BadInput

Messages = list[dict]
NGRAMS = (2, 5)  # characters in one n-gram; arbitrary, wide enough for single words and for typing errors


def zero_shot(items: list[dict], task) -> list[Messages]:
    return [rows.chat(row, task.zero_shot_system or task.system) for row in items]


def candidate(items: list[dict], task) -> list[Messages]:
    return [rows.chat(row, task.system) for row in items]


def tools_of(items: list[dict]) -> list[list | None]:
    """Give the tools that each item's prompt offers, in the order of the prompts."""
    return [rows.tools(row) for row in items]


def as_sent(messages: Messages) -> Messages:
    """Give turns as OpenAI's API takes them: the arguments of tool calls are JSON in text there, and an object in a chat template."""
    return [_with_text_arguments(turn) if turn.get("tool_calls") else turn for turn in messages]


def _with_text_arguments(turn: dict) -> dict:
    def written(function: dict) -> dict:
        return function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}

    return turn | {"tool_calls": [call | {"function": written(call["function"])} for call in turn["tool_calls"]]}


def few_shot(items: list[dict], task, examples: list[list[dict]]) -> list[Messages]:
    """Put each item's own examples between the system turn and its question, as turns already taken.

    The tools are the item's own, also where an example calls another: what is compared is what the task offers.
    """
    prompts = []
    for messages, shown in zip(zero_shot(items, task), examples, strict=True):
        system = [turn for turn in messages if turn["role"] == "system"]
        asked = [turn for turn in messages if turn["role"] != "system"]
        prompts.append(system + [turn for row in shown for turn in row["messages"] if turn["role"] != "system"] + asked)
    return prompts


def fixed_examples(train: list[dict], k: int, seed: int = 0) -> list[dict]:
    """Choose `k` rows, one from each task type in turn, the most frequent types first."""
    shuffled = sorted(train, key=lambda row: row["id"])
    random.Random(seed).shuffle(shuffled)
    types = defaultdict(list)
    for row in shuffled:
        types[row["task_type"]].append(row)
    turns = sorted(types.values(), key=len, reverse=True)
    depth = max(map(len, turns), default=0)
    return [group[i] for i in range(depth) for group in turns if i < len(group)][:k]


def nearest_examples(train: list[dict], items: list[dict], k: int) -> list[list[dict]]:
    """Choose for each item the `k` training rows with the most similar prompts, the most similar last.

    Similarity is the cosine of TF-IDF vectors of character n-grams: no embedding model is needed, and near-copies of a
    sentence, which help a small model most, are found. The most similar comes last because a model copies what it read last.
    """
    if not items:
        return []
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True, dtype=np.float32)
    library = vectorizer.fit_transform([_asked(row) for row in train])
    similarity = (vectorizer.transform([_asked(row) for row in items]) @ library.T).toarray()
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return [[train[i] for i in reversed(line)] for line in best.tolist()]


def fit(
    items: list[dict], task, examples: list[list[dict]], count_tokens: Callable[[list[Messages], list[list | None]], list[int]],
    max_prompt_tokens: int,
) -> list[Messages]:  # fmt: skip
    """Build few-shot prompts, dropping each one's farthest examples until it has at most `max_prompt_tokens` tokens.

    Args:
        count_tokens: given prompts and the tools of each, counts the tokens.

    Raises:
        BadInput: an item is too long even without examples.
    """
    kept = [list(shown) for shown in examples]
    prompts = few_shot(items, task, kept)
    unsure = list(range(len(items)))
    while unsure:
        counts = count_tokens([prompts[i] for i in unsure], tools_of([items[i] for i in unsure]))
        long = [i for i, count in zip(unsure, counts, strict=True) if count > max_prompt_tokens]
        for i in long:
            if not kept[i]:
                raise BadInput(
                    f"Row {items[i]['id'][:12]} is too long to ask: its prompt must leave room for the answer and have at most "
                    f"{max_prompt_tokens} tokens. Raise serve.max_model_len or lower task.max_length."
                )
            kept[i].pop(0)
            prompts[i] = few_shot([items[i]], task, [kept[i]])[0]
        unsure = long
    return prompts


def prompt_hash(messages: Messages, tools: list | None = None) -> str:
    return digests.digest_json({"messages": messages, "tools": tools} if tools else messages)


def _asked(row: dict) -> str:
    return "\n".join(rows.said(turn) for turn in rows.chat(row, "") if turn["role"] != "system")
