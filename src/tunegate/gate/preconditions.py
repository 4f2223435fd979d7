"""What must hold whatever the gates find, and what a reader of the verdict must be told although it decides nothing."""

import pandas as pd

from tunegate.gate.measures import CHAMPION
from tunegate.gate.policy import Policy
from tunegate.gate.wording import ordinal, shown


def failed_preconditions(policy: Policy, facts: dict) -> list[str]:
    """Give a sentence for each precondition that is known to fail; an unknown one is an ERROR (see fitness)."""
    rules, said = policy.preconditions, []
    if facts.get("train_rows") is not None and facts["train_rows"] < rules.min_train_rows:
        said.append(f"{facts['train_rows']} training rows are fewer than the {rules.min_train_rows} that the policy asks for.")
    if facts.get("leaked_pairs") is not None and facts["leaked_pairs"] > rules.max_leaked_pairs:
        said.append(
            f"{facts['leaked_pairs']} near-duplicate pairs straddle the split, and the policy allows {rules.max_leaked_pairs}: "
            "the model may have learnt answers of the test."
        )
    share = facts.get("stop_token_in_loss")
    if share is not None and share < rules.min_stop_token_share:
        said.append(
            f"min_stop_token_share: the end-of-turn token was in the loss of {shown(share, 'share')} of the training examples, and the "
            f"policy asks for {shown(rules.min_stop_token_share, 'share')}: the model did not learn to stop."
        )
    if rules.refuse_reversed_pairs and facts.get("reversed_pairs") and facts.get("preference_pairs") == "given":
        said.append(f"refuse_reversed_pairs: the model was trained on the data's own preference pairs. {facts['reversed_pairs']}")
    use = (facts.get("sealed_test") or {}).get("use")
    if use is not None and rules.max_sealed_uses is not None and use > rules.max_sealed_uses:
        said.append(
            f"max_sealed_uses: this is the {ordinal(use)} candidate that this sealed test judges, and the policy allows "
            f"{rules.max_sealed_uses}: the test is worn. Draw a new sealed test (curate.seed, or a new curate.test_set) and run again."
        )
    return said


def warnings(policy: Policy, held: pd.DataFrame, facts: dict, slices: list[dict]) -> list[str]:
    """Give what does not decide and must be known."""
    said, use = [], (facts.get("sealed_test") or {}).get("use")
    if use is None:
        said.append("How many candidates this sealed test has judged is unknown: no ledger of its uses was read.")
    elif use > 1:
        # E[max of 5 standard normals] is 1.163; times sqrt(0.2 / 200), the standard error of a paired difference of 0/1 scores
        said.append(
            f"This is the {ordinal(use)} candidate that this sealed test judges, and each further look costs honesty: the best of five "
            "equal candidates looks 3.7 points better than it is by luck alone (200 items, 20 % of pairs differ)."
        )
    if policy.slices is not None and policy.slices.versus == CHAMPION and facts.get("champion") is None:
        said.append("The slices were not judged: there is no champion to compare with.")
    if policy.slices is not None and policy.slices.action == "warn":
        said += [f"Slice {entry['reason']}" for entry in slices if entry["alarm"]]
    flips = held.loc[held["metric"] == "judge/flip", "score"]
    if len(flips):
        said.append(
            f"The judge model gave another answer in {shown(float(flips.mean()), 'share')} of {len(flips)} comparisons when the two "
            "answers changed places; what it says is advisory."
        )
    return said
