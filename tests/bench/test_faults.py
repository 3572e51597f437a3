import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.faults.__main__ import LOSS, measured
from bench.faults.planting import KINDS, planted
from bench.faults.scorers import SCORERS, Scorer, run
from bench.faults.table import rank, table
from peelaudit.settings.audit import AuditConfig

FIXTURES = Path(__file__).parents[2] / "fixtures"
LLAMA = FIXTURES / "llama"
TEXT = LLAMA / "calibration.txt"


def of(
    layer: int | None, loss: float, scores: list[float], named: list[int] | None, model: str = "m"
) -> dict[str, object]:
    by = {"mine": {"scores": scores, "named": named, "seconds": 2.0}}
    return {"model": model, "layers": 3, "fault": "noised", "layer": layer, "loss": loss, "by": by}


def cells(lines: list[str], name: str) -> list[str]:
    (row,) = [line for line in lines if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.strip("| ").split("|")]


def test_a_tie_counts_against_the_layer() -> None:
    assert [rank([0.0, 2.0, 2.0], layer) for layer in (1, 2, 3)] == [3, 2, 2]


def test_faults_that_cost_little_count_for_nothing_and_a_healthy_network_that_is_named_is_told() -> None:
    results = [
        of(None, 1.0, [0.0, 0.0, 1.0], [3]),
        of(1, 1.2, [5.0, 0.0, 1.0], [1]),
        of(2, 1.3, [5.0, 4.0, 1.0], [1]),
        of(3, 1.01, [5.0, 0.0, 1.0], []),
    ]
    lines = list(table(results))
    assert cells(lines, "mine") == ["mine", "1 of 2", "1 of 2", "2 of 2", "1", "1", "1 of 1", "2"]
    assert cells(lines, "chance")[2] == "1 of 2"


def test_a_score_that_names_no_layer_has_no_figure_for_it() -> None:
    lines = list(table([of(None, 1.0, [0.0] * 3, None), of(1, 2.0, [1.0, 0.0, 0.0], None)]))
    assert cells(lines, "mine")[4:7] == ["", "", ""]


@pytest.mark.parametrize("checkpoint", [LLAMA, FIXTURES / "llama-ternary", FIXTURES / "nanogpt" / "ckpt.pt"], ids=str)
def test_a_copy_differs_in_one_block_and_is_a_directory_that_transformers_loads(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = AuditConfig(
        checkpoint=str(checkpoint),
        data=(str(checkpoint.parent / TEXT.name if checkpoint.is_file() else checkpoint / TEXT.name),),
        tokens=2048,
    )
    copies = {}
    for copy in planted(config, tmp_path, [2], done=[f"{kind}-2" for kind in KINDS[1:]]):
        copies[copy.name] = AutoModelForCausalLM.from_pretrained(copy.path).state_dict()
    assert list(copies) == ["healthy", "reinitialised-2"]
    changed = {name for name, one in copies["healthy"].items() if not torch.equal(one, copies["reinitialised-2"][name])}
    assert changed
    assert all(".1." in name for name in changed)


def options(tmp_path: Path) -> argparse.Namespace:
    results = tmp_path / "results.jsonl"
    return argparse.Namespace(
        model=str(LLAMA), data=[str(TEXT)], tokens=2048, layers="2", score=["weight norm"], results=results
    )


def lines_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_what_is_measured_already_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.faults.planting.KINDS", KINDS[:1])
    report = json.dumps({"held_out": {"trained_loss": {"value": 1.5}}})
    told = Scorer(lambda directory, text: [sys.executable, "-c", f"print({report!r})"], lambda output: [0.0, 1.0])
    for name in ("weight norm", LOSS):
        monkeypatch.setitem(SCORERS, name, told)
    wanted = options(tmp_path)
    measured(wanted)
    lines = lines_of(wanted.results)
    assert [(line["name"], line["loss"], line["layers"]) for line in lines] == [
        ("healthy", 1.5, 2),
        ("reinitialised-2", 1.5, 2),
    ]
    measured(wanted)
    assert lines_of(wanted.results) == lines


def test_a_command_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    failing = Scorer(lambda directory, text: [sys.executable, "-c", "raise SystemExit('no such thing')"], json.loads)
    with pytest.raises(RuntimeError, match="no such thing"):
        run(failing, tmp_path, ())


@pytest.mark.slow
def test_scores_of_whole_commands_find_a_block_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.faults.planting.KINDS", KINDS[:1])
    wanted = options(tmp_path)
    wanted.score = ["weight norm", "block influence"]
    measured(wanted)
    healthy, damaged = lines_of(wanted.results)
    assert all(
        len(by["scores"]) == 5 and by["seconds"] > 0 for line in (healthy, damaged) for by in line["by"].values()
    )
    assert damaged["loss"] > healthy["loss"] + 0.05
    assert rank(damaged["by"][LOSS]["scores"], 2) == 1
    assert damaged["by"][LOSS]["named"] == [2]
