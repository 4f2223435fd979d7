"""Gates on quantiles and on macro-F1, from results to the sentence."""

import numpy as np
import pytest

from tunegate.gate.judge import judge
from tunegate.gate.policy import Policy
from tunegate.gate.verdict import evidence
from tunegate.results import item

COUNT = 300


def judged(items: list[dict], **keys) -> dict:
    gate = {"id": "own", "versus": "champion"} | keys
    gate = {key: value for key, value in gate.items() if value is not None}
    policy = Policy(apiVersion="tunegate/v1", kind="PromotionPolicy", name="own", gates=[gate])
    return judge(policy.gates[0], policy, evidence(items))


def latencies(factor: float) -> list[dict]:
    rng, rows = np.random.default_rng(0), []
    for number in range(COUNT):
        seconds = rng.lognormal(0, 0.4)
        for arm, times in (("champion", 1.0), ("candidate", factor)):
            rows.append(item(arm, "test", str(number), "serve/latency_seconds", seconds * times * rng.lognormal(0, 0.05)))
    return rows


def labelled(right: float, wrong: str = "HassNothing") -> list[dict]:
    rng, rows = np.random.default_rng(1), []
    for number in range(COUNT):
        expected = ("on", "off", "dim")[number % 3]
        for arm, share in (("champion", 0.6), ("candidate", right)):
            output = f" {expected.upper()}\n" if rng.random() < share else wrong
            rows.append(item(arm, "test", str(number), "task/exact", float(output != wrong), output=output, expected=expected))
    return rows


P95 = {"metric": "serve/latency_seconds", "statistic": "p95"}
F1 = {"metric": "task/exact", "statistic": "macro_f1"}


def test_a_ratio_of_tails():
    found = judged(latencies(0.8), **P95, test="ratio_ucb", at_most=1.0)
    assert found["outcome"] == "passed" and found["statistic"] == "p95" and found["effective_clusters"] == pytest.approx(COUNT)
    assert found["ratio"] == pytest.approx(found["candidate"] / found["versus_value"]) and found["bound"] < 1
    assert found["reason"].startswith("own: p95 of serve/latency_seconds 1.") and "(champion): 0.7" in found["reason"]
    slower = judged(latencies(1.3), **P95, test="ratio_ucb", at_most=1.0)
    assert slower["outcome"] == "failed" and "exceeds the 1.000 allowed" in slower["reason"]


def test_a_tail_alone_keeps_its_limit():
    keys = P95 | {"versus": None, "test": "absolute_lcb", "direction": "lower_is_better"}
    found = judged(latencies(1.0), **keys, at_most=3.0)
    assert found["outcome"] == "passed" and found["method"] == "order statistics"
    assert found["ci"][0] <= found["candidate"] <= found["bound"] <= found["ci"][1]
    assert judged(latencies(1.0), **keys, at_most=found["candidate"])["outcome"] == "failed"


def test_a_difference_of_tails_where_lower_is_better():
    keys = P95 | {"statistic": "p50", "direction": "lower_is_better"}
    found = judged(latencies(0.8), **keys, test="superiority", margin=0.05)
    assert found["outcome"] == "passed" and found["difference"] == pytest.approx(found["versus_value"] - found["candidate"])
    worse = judged(latencies(1.3), **keys, test="noninferiority", margin=0.05)
    assert worse["outcome"] == "failed" and "a change of +0." in worse["reason"] and "where lower is better" in worse["reason"]


def test_macro_f1_is_won_label_by_label():
    found = judged(labelled(0.9), **F1, test="superiority", margin=0.05)
    assert found["outcome"] == "passed" and found["kind"] == "share"
    assert found["difference"] == pytest.approx(found["candidate"] - found["versus_value"]) and found["candidate"] < 1
    assert "own: macro-F1 of task/exact 9" in found["reason"] and "points asked for" in found["reason"]
    assert judged(labelled(0.6), **F1, test="superiority", margin=0.05)["outcome"] == "failed"
    alone = judged(labelled(0.9), **F1, versus=None, test="absolute_lcb", at_least=0.8)
    assert alone["outcome"] == "passed" and alone["candidate"] == found["candidate"]


def test_macro_f1_where_lower_is_better_turns_the_arms():
    up = judged(labelled(0.9), **F1, test="noninferiority", margin=0.05)
    down = judged(labelled(0.9), **F1, test="noninferiority", margin=0.05, direction="lower_is_better")
    assert (up["outcome"], down["outcome"]) == ("passed", "failed") and down["difference"] == pytest.approx(-up["difference"])


def test_what_macro_f1_cannot_be_made_of_is_an_error():
    rows = labelled(0.9)
    for row in rows[:4]:
        row["expected"] = " "
    assert (
        "2 items have no expected answer, without which there is no macro-F1" in judged(rows, **F1, test="superiority", margin=0)["reason"]
    )
    rows = labelled(0.9)
    rows[0]["expected"] = "other"
    found = judged(rows, **F1, test="superiority", margin=0)
    assert found["outcome"] == "error" and "other expected answers in the arm champion than in the arm candidate" in found["reason"]


def test_a_tail_too_thin_to_be_bounded_is_an_error():
    found = judged(latencies(1.0), metric="serve/latency_seconds", statistic="p99", test="ratio_ucb", at_most=1.1)
    assert found["outcome"] == "error" and not found["passed"]
    assert found["reason"] == "own: p99 is too extreme for 300 independent items; a bound of it needs 368."


def test_too_few_clusters_are_an_error_that_says_how_many_are_needed():
    rows = latencies(1.0)
    for number, row in enumerate(rows):
        row["cluster_id"] = str(number // 2 % 6)
    found = judged(rows, metric="serve/latency_seconds", test="ratio_ucb", at_most=1.1)
    assert found["outcome"] == "error"
    assert "300 items in 6 clusters, the largest of 50, count for 6.0 clusters of equal size, too few" in found["reason"]


def test_the_mean_names_no_statistic_and_says_how_many_clusters_count():
    found = judged(latencies(0.8), metric="serve/latency_seconds", test="ratio_ucb", at_most=1.0)
    assert (
        "statistic" not in found
        and found["effective_clusters"] == pytest.approx(COUNT)
        and found["reason"].startswith("own: serve/latency_seconds ")
    )
