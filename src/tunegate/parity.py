"""Hold what is served against what was trained: the prompt's token ids, and the answers before and after the merge."""

from pathlib import Path

from tunegate import digests
from tunegate.curate.chat_tokens import ChatTokens, has_tokenizer
from tunegate.prompts import Messages, tools_of
from tunegate.steps import say


def same_prompt(served: list[tuple[str, int]], base: Path, rows: list[dict], asked: list[Messages], items: list[dict]) -> list[dict]:
    """Compare the ids that the server makes of each prompt with those that training made: metric parity/same_prompt, 0 or 1.

    Training renders by the base model's template and tokenizer; so does this, in process. A changed template, a second
    beginning-of-sequence token or another tokenizer at serving makes ids differ. The count of prompt tokens that came back
    with the answer itself must agree too, since an answer is asked for on another path than ids are.

    Args:
        served: of each prompt, the digest of its ids (digests.digest_json) and their number.
    """
    if not has_tokenizer(base):
        say("      evaluate: the base model has no tokenizer.json, so prompts cannot be compared with those of training")
        return []
    counted = {item["item_id"]: item for item in items if (item["arm"], item["split"]) == ("candidate", "test")}
    found = []
    for row, (digest, count), ours in zip(rows, served, ChatTokens(base).prompts(asked, tools_of(rows)), strict=True):
        item = counted[row["id"]]
        same = digest == digests.digest_json(ours) and count == item["prompt_tokens"] == len(ours)
        found.append(_parity(item, "parity/same_prompt", same))
    return found


def same_as_adapter(items: list[dict]) -> list[dict]:
    """Compare the merged model's answers with the unmerged adapter's: metric parity/same_as_adapter, 0 or 1."""
    answered = {
        (item["arm"], item["item_id"]): item
        for item in items if item["split"] == "test" and item["metric"] == "task/exact" and item["arm"] in ("candidate", "adapter")
    }  # fmt: skip
    unmerged = {item_id: item["output"] for (arm, item_id), item in answered.items() if arm == "adapter"}
    return [
        _parity(item, "parity/same_as_adapter", item["output"] == unmerged[item_id])
        for (arm, item_id), item in answered.items() if arm == "candidate" and item_id in unmerged
    ]  # fmt: skip


def _parity(item: dict, metric: str, same: bool) -> dict:
    return item | {"metric": metric, "score": float(same)}
