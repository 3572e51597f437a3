"""A report: a page, or in full. It fits its columns, its numbers are whole, and nothing in it is code."""

from __future__ import annotations

import dataclasses
import re
import shlex

import pytest
from rich.cells import cell_len

from peelaudit.auditing.advice import advise
from peelaudit.records import AuditReport, BaselineLosses, Estimate, ScheduleSearch, SplitFigures, Symptom, Verdict
from peelaudit.reports.terminal import render_checkpoint, render_report
from peelaudit.settings.audit import AuditConfig
from tests.factories import (
    make_checkpoint,
    make_estimate,
    make_report,
    make_schedule,
    staircase,
    with_every_figure,
    with_gaps,
)

HOSTILE = "a\x1b]0;owned\x07[bold red]b[/]\x9b31m\n:smile:\udcff"


def widest(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def rows_of(text: str) -> list[int]:
    """The layers that have a row with a bar on the page, or would have one."""
    return [int(match[1]) for match in re.finditer(r"^ +(\d+) +[+-]\d\.\d{3} +[+-]\d", text, re.MULTILINE)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("n_layers", [4, 12, 80])
@pytest.mark.parametrize("width", [1, 80, 91, 92, 120])
def test_fits_its_columns(n_layers: int, width: int, full: bool) -> None:
    for report in (make_report(n_layers), with_every_figure(make_report(n_layers))):
        text = render_report(report, full=full, width=width)
        assert widest(text) <= max(width, 80)
        assert text.endswith("\n")
        assert "\x1b" not in text
        assert text.splitlines() == [line.rstrip() for line in text.splitlines()]


def advised(report: AuditReport, *, data: tuple[str, ...] = ()) -> AuditReport:
    config = AuditConfig(checkpoint=report.checkpoint.path, data=data)
    words = advise(report.network, report.baselines, make_estimate(-2.0), report.layers, report.refinement, config)
    return dataclasses.replace(report, advice=words)


LONG = "/scratch/project/experiments/2026-03-tiny/out/ckpt-120000.pt"


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize(("n_layers", "most"), [(4, 24), (16, 36), (40, 36)])
def test_a_page_is_of_few_lines(n_layers: int, most: int, verdict: Verdict) -> None:
    """With all that an advice may say of a healthy network, and a headline of three lines."""
    report = make_report(n_layers, verdict=verdict, path=LONG)
    network = dataclasses.replace(report.network, temperature_gain=make_estimate(0.1, 0.02))
    assert network.refinement is not None
    grown = dataclasses.replace(network.refinement, gain=make_estimate(0.2, 0.02))
    headline = f"{report.headline}; over-confident (a temperature of 1.12 gains 0.100); layers 1, 2, 3, 4, 5: noisy"
    report = dataclasses.replace(
        report, network=dataclasses.replace(network, refinement=grown), headline=headline, warnings=("a", "b")
    )
    text = render_report(advised(report, data=(LONG,)))
    assert "With more text" in text
    assert "temperature of 1.12" in unwrapped(text)
    assert len(text.splitlines()) <= most
    assert rows_of(text) == (list(range(1, n_layers + 1)) if n_layers <= 16 else rows_of(text)[:8])


def test_each_further_layer_takes_a_line() -> None:
    lines = [len(render_report(make_report(n)).splitlines()) for n in (4, 5, 12, 16)]
    assert lines == [lines[0], lines[0] + 1, lines[0] + 8, lines[0] + 12]
    assert lines[0] <= 24


def test_a_page_with_too_much_to_say_loses_blank_lines_and_nothing_else() -> None:
    page = render_report(make_report(advice="much")).splitlines()
    squeezed = render_report(make_report(advice="much to do " * 40)).splitlines()
    assert len(squeezed) == 24
    begin = page.index("Next: much")
    kept = [line for line in page[:begin] if line]
    assert len(kept) < begin
    assert [line for line in squeezed if line][: len(kept)] == kept
    assert " ".join(squeezed).count("much to do") == 40


def test_the_page_has_its_parts_in_order() -> None:
    text = unwrapped(render_report(with_gaps(make_report(), 0.01, 0.02, 0.08, 0.02, named=(3,))))
    parts = (
        "runs/tiny/ckpt.pt, step 2,000 4 layers",
        "✗ red, can do better: its layers",
        "trained loss 5.270 5.220..5.315",
        "= best reference, direct 5.258",
        "+ the head's part -0.030 -0.040..-0.021",
        "+ the layers' part +0.042 +0.022..+0.060",
        "nearest peeled, every:2 +0.120 +0.110..+0.129 behind the trained",
        "3 +0.080 +0.060..+0.098 ━━━━━━━━━━━━━━━━ stands out 4 +0.020 +0.000..+0.038 like the others",
        "gain 0.031 with half the text, 0.042 with all.",
        "Next: Train on",
        "! 2 warnings (--full)",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.endswith(parts[-1])


@pytest.mark.parametrize("data", ["a.txt", "a/long/name/" * 6 + "text.txt", "text with 'blanks'.txt"])
def test_the_command_that_the_advice_ends_with_is_what_a_shell_takes(data: str) -> None:
    command = shlex.join(["peelaudit", "run", "runs/tiny/ckpt.pt", "--data", data, "--tokens", "65536"])
    page = render_report(make_report(advice=f"More text is a harder test: {command}", warnings=()))
    _, _, told = page.partition("test:")
    assert shlex.split(told.replace("\\\n", "")) == shlex.split(command)  # as a shell does, and shlex doesn't
    assert told.startswith("\n  peelaudit run")
    assert max(map(len, page.splitlines())) <= max(80, len(data) + 8)


@pytest.mark.parametrize("advice", ["Then: peelaudit run 'a", 'Then: peelaudit run "a', "Then: peelaudit run a\\"])
def test_advice_of_a_saved_report_that_no_shell_takes_is_told_as_it_is(advice: str) -> None:
    assert f"Next: {advice}\n" in render_report(make_report(advice=advice, warnings=()))


def test_no_warnings_take_no_line() -> None:
    assert "warning" not in render_report(make_report(warnings=()))
    assert "! 1 warning (--full)" in render_report(make_report(warnings=("a",)))


@pytest.mark.parametrize("full", [False, True])
def test_of_a_broken_network_the_verdict_and_the_advice_are_told_alone(full: bool) -> None:
    report = make_report(baselines=BaselineLosses(uniform=4.5, unigram=make_estimate(4.4)), headline="broken: it is")
    text = render_report(report, full=full)
    page = text.split("\nWarnings\n")[0]
    assert page.splitlines()[3:5] == ["✗ red, broken: it is", ""]
    assert page.splitlines()[5].startswith("Next: Train on")
    assert ("--full" in text) == ("Worse than guessing." not in text) == (not full)
    assert "trained loss" not in page
    assert rows_of(page) == []


def test_without_gaps_the_page_says_how_to_have_them() -> None:
    report = make_report(refinement=None)
    rows = [dataclasses.replace(row, gap=None) for row in report.layers]
    rows[1] = dataclasses.replace(rows[1], symptoms=(Symptom.ATTENTION_SILENT, Symptom.MLP_SILENT))
    for full in (False, True):
        text = render_report(dataclasses.replace(report, layers=tuple(rows)), full=full)
        assert "refined alone, takes --effort default or thorough." in text
        assert re.search(r"^    2 +attention silent, MLP silent$", text, re.MULTILINE)
        assert widest(text) <= 80


def test_symptoms_beyond_their_room_are_cut_and_said_to_be() -> None:
    report = make_report()
    rows = [dataclasses.replace(row, symptoms=tuple(Symptom)) for row in report.layers]
    text = render_report(dataclasses.replace(report, layers=tuple(rows)))
    assert text.count("untrained, …") == 4
    assert widest(text) <= 80


def extreme_report() -> AuditReport:
    """80 layers and the widest figures that there can be."""
    report = make_report(80)
    wide, loss = Estimate(-12.3456, -123.456, -99.9994), make_estimate(123.456)

    def widen(figures: SplitFigures) -> SplitFigures:
        losses = dict.fromkeys(("trained_loss", "trained_readout_loss", "yes0", "bound"), loss)
        return dataclasses.replace(figures, **losses, distortion=wide, verdict=Verdict.YELLOW)

    layers = tuple(
        dataclasses.replace(
            row,
            gap=wide,
            depth_gap=wide,
            scale_slope=wide,
            bulk_slope=wide,
            influence=wide,
            held_out=widen(row.held_out),
            best_schedule="prefix:78",
            redundancy=make_estimate(54321.0),
        )
        for row in report.layers
    )
    return dataclasses.replace(report, layers=layers)


def test_numbers_are_whole_at_their_widest() -> None:
    text = render_report(extreme_report(), full=True)
    assert widest(text) <= 80
    assert text.count("-12.346 -123.5..-99.999 prefix:78→80\n") == 80
    assert text.count("-12.346 -123.5..-99.999   5e+04") == 80
    assert text.count("-12.346   -123.5..-99.999\n") + text.count("-12.346   -123.5..-99.999  ") == 80


def test_a_layers_own_figures_stand_in_a_table_with_what_refining_it_took() -> None:
    rows = tuple(
        dataclasses.replace(row, scale_slope=make_estimate(0.25), bulk_slope=make_estimate(-0.125))
        for row in make_report(4).layers
    )
    text = render_report(make_report(4, layers=rows), full=True)
    assert len(re.findall(r"\+0\.250 -0\.125 +2   3$", text, re.MULTILINE)) == 4
    assert "took 41 forward passes" in unwrapped(text)
    assert "All together took 4 steps, 6 products and 35 passes." in unwrapped(text)


def test_without_gaps_every_other_figure_stands_under_its_header() -> None:
    report = make_report(refinement=None)
    rows = tuple(dataclasses.replace(row, gap=None) for row in report.layers)
    lines = render_report(dataclasses.replace(report, layers=rows), width=80, full=True).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Each layer by itself"))
    header, _, first = (line.split() for line in lines[start + 1 : start + 4])
    assert header[:2] == ["k", "redund."]
    assert "%" not in header
    assert first[:2] == ["1", f"{rows[0].redundancy.value:.3f}"]


def test_the_profile_has_a_row_for_each_depth_and_accuses_no_layer() -> None:
    profile, coloured = (
        render_report(make_report(80), full=True, colour=colour).split("The peel profile")[1].split("The references")[0]
        for colour in (False, True)
    )
    rows = [int(match[1]) for match in re.finditer(r"^ ?(\d+) +\d+\.\d{3} +\d", profile, re.MULTILINE)]
    assert rows == list(range(1, 81))
    assert "in healthy networks too: the profile accuses no layer" in unwrapped(profile)
    assert "The last row is the whole network, readout refit; the rows above it, lens." in unwrapped(profile)
    assert not any(colour in coloured for colour in ("\x1b[33m", "\x1b[1;31m", "\x1b[32m"))


def test_in_full_every_layer_has_its_row() -> None:
    report = make_report(40)
    assert rows_of(render_report(report, full=True).split("\nWarnings")[0]) == list(range(1, 41))


@pytest.mark.parametrize("verdict", Verdict)
def test_verdicts_have_signs_beside_colours(verdict: Verdict) -> None:
    report = make_report(verdict=verdict, paper_verdict=Verdict.GREEN)
    signs = {"red": "✗", "yellow": "!", "green": "✓", "grey": "?"}
    assert f"\n{signs[verdict]} {verdict}, can do better: " in render_report(report)
    text = unwrapped(render_report(report, full=True))
    assert "The paper's verdict: green ✓ effective on fit tokens" in text
    assert ("trust that one" in text) == (verdict is not Verdict.GREEN)


@pytest.mark.parametrize("full", [False, True])
def test_colours_only_where_asked_for(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    report = make_report()
    coloured = render_report(report, full=full, colour=True)
    assert "\x1b[1;31m✗ red\x1b[0m, can" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).split() == render_report(report, full=full).split()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "no-such-encoding"])
def test_ascii_stands_in(encoding: str, full: bool) -> None:
    report = make_report(30, path="modèles/日本.pt")
    text = render_report(report, full=full, encoding=encoding)
    text.encode("ascii" if encoding == "no-such-encoding" else encoding)
    assert "\nx red, can do better" in text
    assert "30 layers x 128" in text
    assert "================  like the others" in text
    assert widest(text) <= 80


def test_says_what_the_words_mean() -> None:
    text = unwrapped(render_report(make_report(), full=True))
    for words in ("nats/token", "YES-0: the loss of the reference", "YES*: the least", "gap = trained loss - YES*"):
        assert words in text
    assert "Next: Train on" in text
    assert "! 15 clusters on held-out" in text
    assert "(--full)" not in text


def test_network_figures() -> None:
    report = make_report()
    text = render_report(report, full=True)
    assert re.search(r"^gap_total = trained loss - YES\* +\+0\.012 -0\.008\.\.\+0\.030 +\+0\.196$", text, re.MULTILINE)
    assert re.search(r"^  trained layers, refitted head +5\.300", text, re.MULTILINE)
    assert re.search(r"^a temperature of 1\.12 gains +\+0\.004 \+0\.002\.\.\+0\.006$", text, re.MULTILINE)
    own = dataclasses.replace(report, network=dataclasses.replace(report.network, readout="own"))
    assert "trained layers," not in render_report(own, full=True)


@pytest.mark.parametrize(
    ("uniform", "unigram", "words"),
    [(10.8, 7.2, None), (10.8, 5.0, "word counts alone (5.000)"), (4.5, 4.4, "guessing all tokens alike (4.500)")],
)
def test_worse_than_guessing_is_made_plain(uniform: float, unigram: float, words: str | None) -> None:
    baselines = BaselineLosses(uniform=uniform, unigram=make_estimate(unigram))
    text = unwrapped(render_report(make_report(baselines=baselines), full=True))
    assert ("Worse than guessing." in text) == (words is not None)
    assert words is None or words in text


def test_hostile_names_are_spelt_out() -> None:
    report = make_report(path=HOSTILE, warnings=(HOSTILE,), advice=HOSTILE, headline=HOSTILE)
    layers = tuple(dataclasses.replace(row, reading=HOSTILE, best_schedule=HOSTILE) for row in report.layers)
    schedules = (make_schedule(HOSTILE, (1, 2, 3, 4), None, 1.0),)
    data = dataclasses.replace(report.data, source=HOSTILE)
    network = dataclasses.replace(report.network, best_schedule=HOSTILE, rival=HOSTILE)
    hostile = dataclasses.replace(report, layers=layers, schedules=schedules, data=data, network=network)
    text = render_report(hostile) + render_report(hostile, full=True)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert r"a\x1b]0;owned\x07[bold red]b[/]\x9b31m\n:smile:\udcff" in text


def test_long_lists_are_cut_and_said_to_be() -> None:
    schedules = tuple(make_schedule(f"via:{i}", staircase((i,), 80), (i,), 5 + i / 100) for i in range(1, 80))
    search = ScheduleSearch(("yes:1",), 2**79, 79, 79)
    text = render_report(make_report(80, schedules=schedules, search=search), full=True)
    assert "67 more are in the JSON report" in unwrapped(text)
    assert "6e+23 possible" in unwrapped(text)


def test_report_of_few_things() -> None:
    report = make_report(4, layers=(), schedules=(), yes=(), warnings=())
    assert "Warnings" not in render_report(report, full=True)
    assert "Next: " in render_report(report)


def test_checkpoint_page() -> None:
    info = dataclasses.replace(make_checkpoint(path=HOSTILE, tensors=3), files=tuple(f"{i}.bin" for i in range(20)))
    text = render_checkpoint(info, tensors=False)
    assert "7,232,000 (7.23 M)" in text
    assert "and 12 more" in text
    assert "c_attn" not in text
    assert "\x1b" not in text
    assert render_checkpoint(info, tensors=True).count("384×128") == 3


def test_the_names_of_tensors_are_whole_up_to_a_length() -> None:
    info = make_checkpoint(tensors=1)

    def lines(name: str) -> list[str]:
        named = dataclasses.replace(info.tensors[0], name=name)
        return render_checkpoint(dataclasses.replace(info, tensors=(named,)), tensors=True).splitlines()

    name = f"model.layers.0.{'feed_forward.experts.' * 4}weight"
    (line,) = [line for line in lines(name) if name in line]
    assert line.split()[1] == "384×128"
    assert max(map(len, lines("a" * 10_000))) < 200
