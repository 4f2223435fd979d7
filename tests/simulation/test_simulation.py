"""The bounds of the gate hold as often as they say: a few designs in a small version; all of them with `make simulate`."""

import sys

import pytest

from tests.simulation import simulate
from tests.simulation.cells import outcome, run_cell
from tests.simulation.designs import Design, outcomes, sizes_of
from tests.simulation.others import OTHERS, run_other

RUNS, TOLERANCE = 1_000, 0.001


@pytest.mark.parametrize(
    "design",
    [
        Design(20, 0.7, "equal", "continuous"), Design(50, 0.3, "skewed", "continuous"), Design(50, 0.3, "equal", "binary"),
    ],
    ids=str,
)  # fmt: skip
def test_a_design_holds(design):
    found = run_cell(design, RUNS)
    assert outcome(found, RUNS, TOLERANCE) == "holds", found


def test_few_discordant_pairs_are_bounded_more_widely_than_asked():
    found = run_cell(Design(20, 0.7, "equal", "binary"), 300)
    assert outcome(found, 300, TOLERANCE) == "holds, conservative" and found["exact"] > 0.9, found


def test_a_design_of_too_few_clusters_says_so():
    assert outcome(run_cell(Design(20, 0.7, "skewed", "continuous"), 200), 200, TOLERANCE) == "too few clusters"


@pytest.mark.parametrize("other", [OTHERS[0], OTHERS[4]], ids=lambda other: other.name)
def test_another_statistic_holds(other):
    assert outcome(run_other(other, 200), 200, TOLERANCE) == "holds"


def test_a_rate_beyond_its_limit_breaks():
    good = run_cell(Design(50, 0.0, "equal", "continuous"), 200) | {"power": 0.8}
    for name, rate, said in (("promoted_superior", 0.2, "false promotion"), ("covered_margin", 0.8, "coverage"), ("power", 0.6, "power")):
        assert outcome(good | {name: rate}, 200, TOLERANCE) == f"breaks: {said}"
    assert outcome(good | {"covered_margin": 0.975}, 10_000) == "breaks: coverage above 97 %"


def test_the_laws_are_those_that_are_told():
    assert sizes_of(Design(50, 0, "equal", "binary")).tolist() == [5] * 50
    skewed = sizes_of(Design(200, 0, "skewed", "binary"))
    assert skewed.mean() == pytest.approx(5, abs=0.1) and (skewed == 1).mean() == pytest.approx(0.2, abs=0.01) and skewed.max() > 20
    for effect in (0.0, -0.05, 0.1, 0.5):
        gains, losses, both, neither = outcomes(effect)
        assert gains - losses == pytest.approx(effect) and gains + losses + both + neither == pytest.approx(1)


@pytest.mark.simulation
def test_every_design_holds(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["simulate"])
    assert simulate.main() == 0
