"""What the simulation of intervals says is true of what it draws."""

from __future__ import annotations

import numpy as np
import pytest

from bench.coverage import LAWS, METHODS, Law, cell, simulated


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_true_figure_is_that_of_many_documents(law: Law) -> None:
    tops, bottoms, truth = simulated(law, 500, 100, seed=0)
    figures = tops.sum(axis=1) / bottoms.sum(axis=1)
    assert figures.mean() == pytest.approx(truth, abs=5 * figures.std() / 10 + 0.01)
    if not law.unequal:
        assert set(np.unique(bottoms)) == {5.0}


def test_students_interval_holds_what_it_says_of_what_it_was_made_for() -> None:
    law = next(law for law in LAWS if not law.unequal and law.shape == "normal")
    above, below, width = cell(law, 8, 1000, METHODS["student"](8))
    assert above + below == pytest.approx(0.05, abs=0.02)
    assert width == pytest.approx(2.365 / 1.96, rel=0.08)


@pytest.mark.parametrize("method", METHODS)
def test_skewed_documents_are_missed_above_by_all_and_least_by_what_is_reported(method: str) -> None:
    law = next(law for law in LAWS if law.unequal and law.shape == "skewed" and law.correlation == 0.7)
    above, below, _ = cell(law, 8, 500, METHODS[method](8))
    assert above > below
    assert (above + below < 0.08) == (method == "peelaudit")
