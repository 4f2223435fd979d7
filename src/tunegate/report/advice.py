"""Say what to do after a verdict."""

from tunegate.report.words import gate_name

REMEDIES = (  # beginning of the metric's name, and what usually mends it; first match
    ("task/finish_stop", "Check that the end-of-turn token is in the loss and that serving uses the chat template of training."),
    ("task/", "Train on more varied rows of what it gets wrong; if it still does not beat its rival, keep that."),
    ("general/", "Train less (fewer epochs, a lower learning rate) or replay more general text (sft.replay_share)."),
    ("parity/", "Compare the merged model with the adapter: merge, chat template and precision must be those of training."),
    ("serve/", "Shorten prompts or answers, or serve on a faster engine or machine."),
    ("judge/", "Read the answers that the judge preferred before acting on it: a judge has tastes."),
    ("", "Add rows that teach what was lost to the training mix, or train less."),  # a suite
)
FAR = 20  # times the items of the test; arbitrary


def next_step(verdict: dict) -> str:
    """Give one or two sentences that a person can act on."""
    return _NEXT[verdict["decision"]](verdict["predicate"], verdict["reasons"])


def _promote(predicate: dict, reasons: list[str]) -> str:
    if predicate["policy"]["document"].get("human_approval"):
        return "A person must approve the registered version before it may serve: tunegate approve MODEL VERSION --who NAME."
    return "Nothing: the pipeline registers, deploys and promotes it. tunegate rollback MODEL brings the one before back."


def _reject(predicate: dict, reasons: list[str]) -> str:
    failed = [gate for gate in predicate["gates"] if gate["required"] and gate["outcome"] in ("failed", "inconclusive")]
    if not failed:
        return "Mend what the reasons name (curation, training or the sealed set), and run the pipeline again."
    remedies = [next(remedy for beginning, remedy in REMEDIES if gate["metric"].startswith(beginning)) for gate in failed]
    return " ".join(dict.fromkeys(remedies))


def _inconclusive(predicate: dict, reasons: list[str]) -> str:
    open_ = [gate for gate in predicate["gates"] if gate["required"] and gate["outcome"] == "inconclusive"]
    known = [gate for gate in open_ if gate.get("required_n")]
    if not known:
        return "What was measured lies on the wrong side of the limit, so a larger test would hardly help: improve the model first."
    gate = max(known, key=lambda gate: gate["required_n"])
    what = "test items" if gate["metric"].partition("/")[0] in ("task", "serve") else f"items of {gate['metric'].partition('/')[0]}"
    said = f"About {gate['required_n']:,.0f} {what} would settle {gate_name(gate)}; there are {gate['n']:,}."
    if gate["required_n"] > FAR * gate["n"]:
        return f"{said} The figure lies too close to the limit for any test of a usual size: improve the model first."
    return said + (" Raise curate.test_rows, and measure base and candidate again." if what == "test items" else "")


def _hold(predicate: dict, reasons: list[str]) -> str:
    return "Search the training rows for the test items that only this model gets right. A leak: curate again. None: have it waived."


def _do_not(predicate: dict, reasons: list[str]) -> str:
    arm = predicate["prompting"]["arm"]
    told = predicate["facts"]["arms"].get(arm, {}).get("few_shot")
    if not told:
        return "Use the base model as it is, with the task's system prompt; or raise the policy's target."
    which = "the same" if told["strategy"] == "fixed" else f"the {told['strategy']}"
    return f"Use the base model with {which} {told['k']} examples of train.jsonl in its prompt ({arm}); or raise the policy's target."


def _error(predicate: dict, reasons: list[str]) -> str:
    return "Mend what is named above, then run evaluate and the gate again. No model can pass, or be waived, on such evidence."


_NEXT = {
    "PROMOTE": _promote, "REJECT": _reject, "INCONCLUSIVE": _inconclusive, "HOLD": _hold, "DO_NOT_FINE_TUNE": _do_not, "ERROR": _error,
}  # fmt: skip
