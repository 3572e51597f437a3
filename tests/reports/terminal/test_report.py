"""The table: it fits 80 columns whatever its size, its numbers are whole, and nothing in it is code."""

from __future__ import annotations

import dataclasses
import re

import pytest
from rich.cells import cell_len

from peelaudit.records import AuditReport, BaselineLosses, Estimate, ScheduleSearch, SplitFigures, Verdict
from peelaudit.reports.terminal import render_checkpoint, render_report
from tests.factories import make_checkpoint, make_estimate, make_report, make_schedule, staircase

HOSTILE = "a\x1b]0;owned\x07[bold red]b[/]\x9b31m\n:smile:\udcff"


def widest(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


@pytest.mark.parametrize("n_layers", [4, 12, 80])
@pytest.mark.parametrize("width", [1, 80, 103, 104, 120])
def test_fits_its_columns(n_layers: int, width: int) -> None:
    text = render_report(make_report(n_layers), width=width)
    assert widest(text) <= max(width, 80)
    assert text.endswith("\n")
    assert "\x1b" not in text
    assert text.splitlines() == [line.rstrip() for line in text.splitlines()]


def extreme_report() -> AuditReport:
    """80 layers and the widest figures that there can be."""
    report = make_report(80)
    wide, loss = Estimate(-12.3456, -123.456, -99.9994), make_estimate(123.456)

    def widen(figures: SplitFigures) -> SplitFigures:
        losses = dict.fromkeys(("trained_loss", "trained_readout_loss", "yes0", "bound"), loss)
        return dataclasses.replace(figures, **losses, verdict=Verdict.YELLOW)

    layers = tuple(
        dataclasses.replace(
            row, gap=wide, held_out=widen(row.held_out), best_schedule="prefix:78", redundancy=make_estimate(54321.0)
        )
        for row in report.layers
    )
    return dataclasses.replace(report, layers=layers)


def test_numbers_are_whole_at_their_widest() -> None:
    text = render_report(extreme_report())
    assert widest(text) <= 80
    assert text.count("-123.5..-99.999 prefix:78→80   5e+04  ! yellow") == 80


@pytest.mark.parametrize(("distortion", "enough"), [(None, 122), (make_estimate(-0.0123), 131)])
def test_slopes_have_columns_where_all_of_a_row_fits(distortion: Estimate | None, enough: int) -> None:
    report = make_report(4)
    layers = tuple(
        dataclasses.replace(
            row,
            scale_slope=make_estimate(0.25),
            bulk_slope=make_estimate(-0.125),
            held_out=dataclasses.replace(row.held_out, verdict=Verdict.GREY, distortion=distortion),
        )
        for row in report.layers
    )
    for width in range(104, 140):
        text = render_report(dataclasses.replace(report, layers=layers), width=width)
        assert widest(text) <= width
        assert text.count("+0.250  -0.125  grey ? inconclusive") == (4 if width >= enough else 0)


def test_a_row_for_each_layer_and_the_network_last() -> None:
    text = render_report(make_report(80))
    rows = [int(match[1]) for match in re.finditer(r"^ ?(\d+) +\d+\.\d{3} +\d", text, re.MULTILINE)]
    assert rows[:80] == list(range(1, 81))
    assert "The last row is the whole network, readout refit; the rows above it, lens." in unwrapped(text)


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("verdict", Verdict)
def test_verdicts_have_words_beside_colours(verdict: Verdict) -> None:
    text = render_report(make_report(verdict=verdict, paper_verdict=Verdict.GREEN))
    words = {"red": "✗ ineffective", "yellow": "! caution", "green": "✓ effective", "grey": "? inconclusive"}
    assert f"verdict      {verdict} {words[verdict]} on held-out tokens: " in text
    assert "paper's      green ✓ effective on fit tokens" in text
    assert ("trust the held-out one" in unwrapped(text)) == (verdict is not Verdict.GREEN)


def test_colours_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    report = make_report()
    coloured = render_report(report, colour=True)
    assert "\x1b[1;31mred ✗ ineffective\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).split() == render_report(report).split()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "no-such-encoding"])
def test_ascii_stands_in(encoding: str) -> None:
    report = make_report(30, path="modèles/日本.pt")
    text = render_report(report, encoding=encoding)
    text.encode("ascii" if encoding == "no-such-encoding" else encoding)
    assert "red x ineffective" in text
    assert "4 layers" not in text
    assert widest(text) <= 80


def test_says_what_the_words_mean() -> None:
    text = unwrapped(render_report(make_report()))
    for words in ("nats/token", "YES-0: the loss of the reference", "YES*: the least", "gap = trained loss - YES*"):
        assert words in text
    assert "Advice: Train on" in text
    assert "! 15 clusters on held-out" in text


def test_network_figures() -> None:
    report = make_report()
    text = render_report(report)
    assert re.search(r"^gap_total = trained loss - YES\* +\+0\.012 -0\.008\.\.\+0\.030 +\+0\.196$", text, re.MULTILINE)
    assert re.search(r"^  trained layers, refitted head +5\.300", text, re.MULTILINE)
    own = dataclasses.replace(report, network=dataclasses.replace(report.network, readout="own"))
    assert "trained layers," not in render_report(own)


@pytest.mark.parametrize(
    ("uniform", "unigram", "words"),
    [(10.8, 7.2, None), (10.8, 5.0, "word counts alone (5.000)"), (4.5, 4.4, "guessing all tokens alike (4.500)")],
)
def test_worse_than_guessing_is_made_plain(uniform: float, unigram: float, words: str | None) -> None:
    baselines = BaselineLosses(uniform=uniform, unigram=make_estimate(unigram))
    text = unwrapped(render_report(make_report(baselines=baselines)))
    assert ("Worse than guessing." in text) == (words is not None)
    assert words is None or words in text


def test_hostile_names_are_spelt_out() -> None:
    report = make_report(path=HOSTILE, warnings=(HOSTILE,), advice=HOSTILE)
    layers = tuple(dataclasses.replace(row, reading=HOSTILE, best_schedule=HOSTILE) for row in report.layers)
    schedules = (make_schedule(HOSTILE, (1, 2, 3, 4), None, 1.0),)
    data = dataclasses.replace(report.data, source=HOSTILE)
    text = render_report(dataclasses.replace(report, layers=layers, schedules=schedules, data=data))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert r"a\x1b]0;owned\x07[bold red]b[/]\x9b31m\n:smile:\udcff" in text


def test_long_lists_are_cut_and_said_to_be() -> None:
    schedules = tuple(make_schedule(f"via:{i}", staircase((i,), 80), (i,), 5 + i / 100) for i in range(1, 80))
    search = ScheduleSearch(("yes:1",), 2**79, 79, 79)
    text = render_report(make_report(80, schedules=schedules, search=search))
    assert "67 more are in the JSON report" in unwrapped(text)
    assert "6e+23 possible" in unwrapped(text)


def test_report_of_few_things() -> None:
    report = make_report(4, layers=(), schedules=(), yes=(), warnings=())
    assert "Warnings" not in render_report(report)


def test_checkpoint_page() -> None:
    info = dataclasses.replace(make_checkpoint(path=HOSTILE, tensors=3), files=tuple(f"{i}.bin" for i in range(20)))
    text = render_checkpoint(info, tensors=False)
    assert "7,232,000 (7.23 M)" in text
    assert "and 12 more" in text
    assert "c_attn" not in text
    assert "\x1b" not in text
    assert render_checkpoint(info, tensors=True).count("384×128") == 3
