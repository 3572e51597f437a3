"""The paper's studies on a tiny scale: one run trained, audited, drawn, and taken up again."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from torch.nn.utils.parametrize import is_parametrized

from bench.studies import paper
from bench.studies.plan import PROJECTIONS, Architecture, Bits, Run, Study, network, runs
from bench.studies.texts import calibration, read_corpus
from bench.studies.training import checkpoints, train
from peelaudit.calibration.arrays import Tokens
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CalibrationError, ConfigError
from peelaudit.network.lowbit.detection import find_grid
from peelaudit.records import GridKind
from peelaudit.records.json import read_report

TINY = Study(
    train_tokens=4_000, fit_tokens=512, select_tokens=256, test_tokens=512, vocabulary=300, width=16, heads=2,
    context=32, rows=16, epochs=2, audited=(1, 2), learning_rates=(1e-2, 1e-4),
)  # fmt: skip
RUN = Run(Architecture.LLAMA, Bits.TERNARY, 1e-2)


@pytest.fixture(scope="module")
def out(texts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("study")
    paper.study_of(*texts, folder, TINY, [RUN.name])
    return folder


@pytest.mark.slow
def test_the_table_holds_what_the_reports_say(out: Path) -> None:
    lines = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [(line["architecture"], line["bits"], line["epoch"]) for line in lines] == [
        ("llama", "ternary", n) for n in "12"
    ]
    for line, folder in zip(lines, checkpoints(RUN, TINY, out).values(), strict=True):
        row = read_report(folder.with_name(f"{folder.name}.json")).network
        assert float(line["fit.trained_loss.value"]) == row.fit.trained_loss.value
        assert float(line["held_out.gap_layers.high"]) == row.held_out.gap_layers.high
        assert (line["fit.verdict"], line["held_out.verdict"]) == (row.paper_verdict, row.held_out.verdict)
    written = (out / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(written) == 2 + len(lines)
    assert len({line.count(" | ") for line in written}) == 1


@pytest.mark.slow
def test_all_eight_staircases_and_refined_are_run(out: Path) -> None:
    for folder in checkpoints(RUN, TINY, out).values():
        report = read_report(folder.with_name(f"{folder.name}.json"))
        assert len(report.schedules) == 9


@pytest.mark.slow
def test_the_audit_knows_the_bits_without_being_told(out: Path) -> None:
    report = read_report(next(iter(out.glob(f"{RUN.name}/*.json"))))
    assert report.low_bit is not None
    assert report.low_bit.held
    assert [(s.name, s.matrices) for s in report.low_bit.sets] == [("ternary per tensor", 4 * 4)]


@pytest.mark.slow
def test_each_run_has_its_clouds_over_epochs(out: Path) -> None:
    for split in ("fit", "held-out"):
        picture = (out / f"{RUN.name}.{split}.svg").read_text(encoding="utf-8")
        assert "2 checkpoints, epochs 1 to 2" in picture
        assert all(f"area-{region}" in picture for region in ("red", "yellow", "green"))


@pytest.mark.slow
def test_a_study_goes_on_from_what_is_there(
    out: Path, texts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    lost = checkpoints(RUN, TINY, out)[2].with_name("epoch-02.json")
    report = read_report(lost)
    lost.unlink()
    paper.study_of(*texts, out, TINY, [RUN.name])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    again = read_report(lost)
    assert dataclasses.replace(again, timings=report.timings) == report


@pytest.mark.slow
def test_another_study_is_kept_apart(out: Path, texts: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        paper.study_of(*texts, out, dataclasses.replace(TINY, seed=1), [RUN.name])


def test_the_command_says_what_is_wrong_in_one_line(
    texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = (str(path) for path in texts)
    assert paper.main(["--train", train, "--test", str(tmp_path / "none.txt")]) == 3
    assert paper.main(["--train", train, "--test", test, "--out", str(tmp_path / "o"), "--only", "bert"]) == 2
    assert paper.main(["--train", train, "--test", test, "--out", str(tmp_path / "o")]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "none.txt" in errors[0]
    assert "bert" in errors[1]
    assert "and 100000 are trained on" in errors[2]


# ---- Tokens ----


def windows(documents: tuple[Tokens, ...]) -> set[bytes]:
    """Every run of `context` tokens in the documents, joined."""
    tokens = np.concatenate(documents)
    return {tokens[i : i + TINY.context].tobytes() for i in range(len(tokens) - TINY.context + 1)}


def test_each_split_is_of_its_own_documents(texts: tuple[Path, Path]) -> None:
    corpus = read_corpus(*texts, TINY)
    data = calibration(corpus, TINY)
    for split, documents in (
        (data.fit, corpus.trained),
        (data.select, corpus.untrained),
        (data.held_out, corpus.tested),
    ):
        assert {row.tobytes() for row in split.tokens} <= windows(documents)
    trained = windows(corpus.trained)
    assert not any(row.tobytes() in trained for split in (data.select, data.held_out) for row in split.tokens)
    assert [data.info.fit.tokens, data.info.select.tokens, data.info.held_out.tokens] == [512, 256, 512]


def test_so_many_tokens_are_trained_on(texts: tuple[Path, Path]) -> None:
    assert sum(len(ids) for ids in read_corpus(*texts, TINY).trained) == TINY.train_tokens


def test_a_text_without_documents_is_refused(texts: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one text\n" * 9_000, encoding="utf-8")
    with pytest.raises(CalibrationError, match="no documents"):
        read_corpus(tmp_path / "one.txt", texts[1], TINY)


def test_no_text_is_left_to_choose_on(texts: tuple[Path, Path]) -> None:
    corpus = dataclasses.replace(read_corpus(*texts, TINY), untrained=())
    with pytest.raises(CalibrationError, match="256 are needed"):
        calibration(corpus, TINY)


# ---- Networks ----


def test_there_are_twelve_runs_of_different_names() -> None:
    assert len({run.name for run in runs(Study())}) == len(runs(Study())) == 12


@pytest.mark.parametrize("architecture", Architecture)
def test_the_paper_constrains_mlp_gate_and_output_projections_alone(architecture: Architecture) -> None:
    model = network(Run(architecture, Bits.BINARY, 1e-2), TINY)
    constrained = {name for name, module in model.named_modules() if is_parametrized(module)}
    assert len(constrained) == 4 * len(PROJECTIONS[architecture])
    assert not any(word in name for name in constrained for word in ("q_proj", "k_proj", "v_proj", "c_attn", "lm_head"))


@pytest.mark.slow
def test_checkpoints_are_dense_on_the_grid_where_constrained(out: Path) -> None:
    for folder in checkpoints(RUN, TINY, out).values():
        with open_checkpoint(folder) as checkpoint:
            names = [tensor.name for tensor in checkpoint.info.tensors]
            kinds = {name: find_grid(checkpoint.tensor(name)) for name in names}
        found = {name for name, grid in kinds.items() if grid is not None and grid.kind is GridKind.TERNARY}
        assert len(found) == 4 * 4
        assert all(any(word in name for word in ("o_proj", "gate", "up", "down")) for name in found)


@pytest.mark.slow
def test_a_rerun_gives_the_same_weights(out: Path, texts: tuple[Path, Path], tmp_path: Path) -> None:
    assert [epoch for epoch, *_ in train(RUN, TINY, read_corpus(*texts, TINY), tmp_path)] == [1, 2]
    pairs = list(zip(*(sorted(root.rglob("*.safetensors")) for root in (out, tmp_path)), strict=True))
    assert len(pairs) == 2
    for mine, theirs in pairs:
        assert mine.read_bytes() == theirs.read_bytes()
