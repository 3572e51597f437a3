"""The planted-fault benchmark on a fixture: the damaged layer first, and what the command says and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from peelaudit.cli import main
from peelaudit.records import FaultKind, FaultResult, Said, Score, Selftest, Verdict
from peelaudit.records.json import dump, load
from peelaudit.reports.terminal import render_selftest
from tests.places import FIXTURES

NANOGPT = str(FIXTURES / "nanogpt" / "ckpt.pt")
SMALL = ["--tokens", "4096", "--seq-len", "64", "--resamples", "200", "-q"]
LESS = [*SMALL, "--tokens", "1024"]


def fault(
    layer: int,
    rank: int,
    rise: float,
    *named: int,
    kind: FaultKind = FaultKind.NOISED,
    leading: tuple[int, ...] = (),
    verdict: Verdict | None = None,
) -> FaultResult:
    return FaultResult(kind, layer, rise, tuple((str(score), rank) for score in Score), Said(named, leading, verdict))


RESULT = Selftest(
    "runs/x.pt",
    "text.txt",
    9000,
    3,
    1.5,
    (fault(1, 1, 0.4, 1), fault(2, 2, 0.1), fault(3, 3, 0.3, 2), fault(1, 1, 0.2, 1, 3, kind=FaultKind.ONE_BIT)),
    (Said(()), Said((2,)), Said(()), Said(())),
)


def test_the_page_counts_first_places_and_names() -> None:
    text = render_selftest(RESULT)
    rows = {line[:16].strip(): line[16:].split() for line in text.splitlines()}
    for score in Score:
        assert rows[score] == ["1/2", "1/1", "2/3"]
    assert rows["faults"] == ["3", "1", "4"]
    assert rows["named"] == ["1", "1", "2"]
    assert rows["least loss rise"] == ["0.10", "0.20", "0.10"]
    assert rows["most"] == ["0.40", "0.20", "0.40"]
    assert "least damage that was named: layer 1 one-bit, +0.200" in text
    assert "most damage that was not named: layer 3 noised, +0.300" in text
    assert "named as well or instead: 2 of 4" in text
    assert "1 of 4 draws" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_headline_has_the_named_layers_else_those_that_gain_most() -> None:
    yellow, green = Verdict.YELLOW, Verdict.GREEN
    faults = (
        fault(1, 1, 0.4, 1, leading=(2,), verdict=yellow),
        fault(2, 2, 0.4, 1, leading=(2,), verdict=yellow),
        fault(2, 1, 0.1, leading=(2, 3), verdict=yellow),
        fault(2, 1, 0.1, leading=(2,), verdict=green),
    )
    undamaged = (Said((), (), green), Said((), (1,), yellow), Said((), (), green))
    text = render_selftest(dataclasses.replace(RESULT, faults=faults, undamaged=undamaged))
    rows = {line[:16].strip(): line[16:].split() for line in text.splitlines()}
    assert rows["named"] == ["1", "1"]
    assert rows["in headline"] == ["2", "2"]
    assert rows["not green"] == ["3", "3"]
    assert "0 of 3 draws of the text. Their verdicts: 1 yellow, 2 green." in " ".join(text.split())


def test_draws_without_a_fault_alone(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ["--faults", "none", "--redraws", "2", "--effort", "quick", "--no-references", *LESS]
    assert main(["selftest", NANOGPT, *wish]) == 0
    text = capsys.readouterr().out
    assert "false alarms without a fault: 0 of 3 draws of the text." in text
    assert "place" not in text
    assert "another layer" not in text


def test_every_kind_of_fault_has_its_column_within_eighty() -> None:
    faults = tuple(fault(1, 1, 0.4, 1, kind=kind) for kind in FaultKind) * 30
    text = render_selftest(dataclasses.replace(RESULT, faults=faults))
    assert sum(cell == "30/30" for cell in text.split()) == len(Score) * len(FaultKind)
    assert max(map(len, text.splitlines())) <= 80


def test_a_result_comes_back_from_json() -> None:
    assert load(dump(RESULT, Selftest), Selftest) == RESULT


def test_the_damaged_layer_of_a_fixture_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = str(FIXTURES / "nanogpt" / "ckpt-000250.pt")
    wish = ["--faults", "attention-zeroed,rolled-back", "--layers", "3", "--redraws", "0", "--earlier", earlier]
    more = ["--no-references", "-f", "json", *SMALL, "--tokens", "2048"]
    assert main(["selftest", NANOGPT, *wish, *more]) == 0
    result = load(capsys.readouterr().out, Selftest)
    expected = [(FaultKind.ATTENTION_ZEROED, 3), (FaultKind.ROLLED_BACK, 3)]
    assert [(fault.kind, fault.layer) for fault in result.faults] == expected
    assert [dict(fault.ranks)[Score.GAP] for fault in result.faults] == [1, 1]
    assert all(fault.rise > 0.05 for fault in result.faults)
    assert [one.named for one in result.undamaged] == [()]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--faults", "magic"], "--faults has 'magic': expected reinitialised"),
        (["--faults", "none,noised"], "--faults has 'none': expected reinitialised"),
        (["--faults", "rolled-back"], "rolled-back: that needs --earlier"),
        (["--redraws", "-1"], "--redraws is '-1'"),
        (["--redraws", "99999999999"], "--redraws is '99999999999'"),
        (["--redraws", "0000000000000099999"], "--redraws is '0000000000000099999'"),
        (["--layers", "0"], "[0] names no layers"),
        (["--layers", "2,9"], "--layers has 9: the network has 4 layers"),
        (["--earlier", str(FIXTURES / "llama")], "not a checkpoint of the same network"),
        (["--format", "html"], "--format is 'html'"),
    ],
)
def test_mistakes_are_sentences(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", NANOGPT, *flags, *SMALL]) == 2
    assert words in capsys.readouterr().err


def test_an_earlier_checkpoint_has_the_same_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = torch.load(FIXTURES / "nanogpt" / "ckpt-000600.pt", weights_only=True)
    other["model_args"]["n_head"] *= 2
    torch.save(other, tmp_path / "other.pt")
    assert main(["selftest", NANOGPT, "--earlier", str(tmp_path / "other.pt"), *SMALL]) == 2
    assert "not a checkpoint of the same network" in capsys.readouterr().err


def test_no_block_is_refined_wherever_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = ["--faults", "noised", "--layers", "2", "--redraws", "0", "-f", "json", *LESS]
    scores = []
    for value, references in (("quick", "--no-references"), ("", "--references")):
        monkeypatch.setenv("PEELAUDIT_EFFORT", value)
        assert main(["selftest", NANOGPT, references, *wish]) == 0
        scores.append(dict(load(capsys.readouterr().out, Selftest).faults[0].ranks))
    assert Score.GAP not in scores[0]
    assert 1 <= scores[1][Score.GAP] <= 4
    assert 1 <= scores[1][Score.DEPTH_GAP] <= 4


def test_too_little_text_to_name_a_layer_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ["--faults", "none", "--redraws", "0", "--effort", "quick", "--no-references", "--seq-len", "128", "-q"]
    words = "no layer is named by its slopes or its gap: 2 held-out documents are too few"
    for tokens, told in (("1024", True), ("4096", False)):
        assert main(["selftest", NANOGPT, *wish, "--tokens", tokens]) == 0
        assert (words in " ".join(capsys.readouterr().out.split())) == told


def test_what_changes_nothing_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """One bit for the weights of a binary network."""
    wish = ["--faults", "one-bit,noised", "--layers", "2", "--redraws", "0", "--effort", "quick", "--no-references"]
    assert main(["selftest", str(FIXTURES / "llama-binary"), *wish, "-f", "json", *SMALL]) == 0
    assert [fault.kind for fault in load(capsys.readouterr().out, Selftest).faults] == [FaultKind.NOISED]


def test_the_last_seed_has_a_next(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ["--faults", "none", "--redraws", "1", "--effort", "quick", "--no-references", *LESS]
    assert main(["selftest", NANOGPT, *wish, "--seed", str(2**32 - 1)]) == 0
    assert "of 2 draws" in capsys.readouterr().out


def test_json_has_the_records_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(dump(RESULT, Selftest))["faults"][0]["ranks"]["gap"] == 1


def test_without_gaps_slopes_and_looks_still_tell(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ["--faults", "reinitialised,one-bit", "--layers", "3", "--redraws", "0", "--effort", "quick"]
    assert main(["selftest", NANOGPT, *wish, "--no-references", "-f", "json", *SMALL]) == 0
    result = load(capsys.readouterr().out, Selftest)
    for fault in result.faults:
        assert Score.GAP not in dict(fault.ranks)
        assert dict(fault.ranks)[Score.AUDIT] == 1
    assert "one-bit" in render_selftest(result)


def test_references_change_nothing_of_what_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ["--faults", "noised", "--layers", "2", "--redraws", "0", "--effort", "quick", "-f", "json", *SMALL]
    results = []
    for flag in ("--references", "--no-references"):
        assert main(["selftest", NANOGPT, flag, *wish]) == 0
        results.append(load(capsys.readouterr().out, Selftest))
    for fitted, looked in zip(results[0].faults, results[1].faults, strict=True):
        ranks = dict(fitted.ranks)
        assert {score: ranks.pop(score) for score in (Score.DEPTH_GAP, Score.PROJECTION)}
        assert ranks == dict(looked.ranks)
        assert (fitted.kind, fitted.layer, fitted.said.named) == (looked.kind, looked.layer, looked.said.named)
        assert fitted.rise == pytest.approx(looked.rise)
    assert [one.named for one in results[0].undamaged] == [one.named for one in results[1].undamaged]
    assert "depth gap" not in render_selftest(results[1])


def test_no_other_layer_is_misscaled_where_one_is_untrained(capsys: pytest.CaptureFixture[str]) -> None:
    """With block 1 of the Llama fixture redrawn, the loss would scale block 5 down too."""
    wish = ["--faults", "reinitialised", "--layers", "1", "--redraws", "0", "--effort", "quick", "--no-references"]
    assert main(["selftest", str(FIXTURES / "llama"), *wish, "-f", "json", "--tokens", "8192", "-q"]) == 0
    assert [fault.said.named for fault in load(capsys.readouterr().out, Selftest).faults] == [(1,)]


def test_a_redrawn_router_is_ranked_by_what_it_loses_by_its_own_choice(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ["--faults", "router-reinitialised", "--layers", "3", "--redraws", "0", "--effort", "quick"]
    more = ["--no-references", "--tokens", "6144", "-q", "-f", "json"]
    assert main(["selftest", str(FIXTURES / "mixtral"), *wish, *more]) == 0
    (fault,) = load(capsys.readouterr().out, Selftest).faults
    assert dict(fault.ranks)[Score.ROUTING] == 1
    assert fault.said.named == (3,)
