"""Audits of a fixture that refine: what their rows hold, what each effort computes, what is said and saved of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.auditing.run import Save, audit_config
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.refinement.files import load_block, load_head
from peelaudit.network.states import StateStore, trained_states
from peelaudit.network.weights import check_weights
from peelaudit.records import AuditReport, Estimate, Verdict
from peelaudit.records import json as json_export
from peelaudit.reports.terminal import render_report
from peelaudit.settings.audit import AuditConfig
from tests.auditing.support import SMALL, audited, one, quick
from tests.places import NANOGPT


@pytest.mark.parametrize("report", [audited, quick])
def test_every_estimate_lies_in_its_interval(report: Callable[[], AuditReport]) -> None:
    def walk(value: object) -> None:
        if isinstance(value, Estimate):
            assert value.low <= value.value <= value.high
        elif dataclasses.is_dataclass(value) or isinstance(value, tuple):
            parts = value if isinstance(value, tuple) else [getattr(value, f.name) for f in dataclasses.fields(value)]
            for part in parts:
                walk(part)

    walk(report())


def test_rows_agree_with_each_other() -> None:
    report = audited()
    assert [row.layer for row in report.layers] == [1, 2, 3, 4]
    assert report.layers[-1].held_out == report.network.held_out
    assert report.layers[-1].best_schedule == report.network.best_schedule
    names = {schedule.name for schedule in report.schedules}
    for row in report.layers:
        assert row.depth_gap == row.held_out.gap_layers
        assert row.gap is not None
        assert row.best_schedule in names
        assert len(row.projection_error) == 4 - row.layer + 1
        assert row.projection_error[0] == Estimate(0.0, 0.0, 0.0)  # the trained block, on its own input
        assert row.redundancy.value > 0


def test_a_real_report_survives_json_and_can_be_drawn() -> None:
    report = audited()
    assert json_export.parse_report(json_export.export(report)) == report
    text = render_report(report, width=80, colour=False, encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 80


def test_each_effort_has_its_references_and_gaps() -> None:
    fast = quick()
    assert {schedule.name for schedule in fast.schedules} == {"direct"}
    assert {one.yes0 for row in fast.layers for one in (row.fit, row.held_out, row.held_out_sums)} == {None}
    assert fast.network.paper_verdict is None
    assert (fast.refinement, fast.network.refinement) == (None, None)
    assert {len(row.projection_error) for row in fast.layers} == {1}
    passes = dict(fast.passes)
    assert passes.keys() == {"hidden states", "trained readouts", "estimate", "slopes"}
    assert passes["hidden states"] == pytest.approx(1, abs=0.05)
    assert sum(passes.values()) < 6
    report = audited()
    assert sum(dict(report.passes).values()) > 10 * sum(passes.values())
    assert report.schedules[0].name == "refined"
    assert len(report.schedules) == 1 + 8
    assert report.refinement is not None
    assert len(report.refinement.steps) == len(report.refinement.products) == 4
    assert report.refinement.passes > 3
    assert [len(row.projection_error) for row in report.layers] == [4, 3, 2, 1]


def test_schedules_that_are_asked_for_leave_gaps_as_they_are() -> None:
    report = audited(schedules=("final",))
    assert [schedule.name for schedule in report.schedules] == ["final"]
    assert report.network.refinement is None
    assert [row.gap for row in report.layers] == [row.gap for row in audited().layers]


def test_the_last_rows_verdict_is_the_networks_and_the_headline_says_it() -> None:
    for report in (audited(), quick()):
        assert report.verdict is report.network.held_out.verdict is report.layers[-1].held_out.verdict
    assert quick().verdict is Verdict.GREY
    assert quick().headline.startswith("inconclusive: no reference wins, but refined, the strongest, was not run")
    assert quick().advice.endswith(f"peelaudit run {NANOGPT / 'ckpt.pt'} --tokens 3072 --schedules refined")


def test_refined_is_no_worse_on_select_than_the_trained_network() -> None:
    for report in (audited(), early()):
        refined, direct = (one(report, name).select.bound.value for name in ("refined", "direct"))
        assert refined <= direct
    assert refined < direct - 0.03


@cache
def early() -> AuditReport:
    """A fixture that was trained a little."""
    beside = {"data": str(NANOGPT / "calibration.txt"), "tokenizer": str(NANOGPT / "meta.pkl")}
    return audited("nanogpt/ckpt-000100.pt", tokens=6144, schedules=("refined", "direct"), **beside)


def test_a_network_that_was_trained_a_little_can_do_better() -> None:
    report = early()
    assert report.verdict is Verdict.YELLOW
    assert report.network.best_schedule == "refined"
    assert report.network.held_out.gap_layers.low > report_tolerance(report)
    assert report.headline.startswith("can do better: its layers by ")
    refinement = report.network.refinement
    assert refinement is not None
    assert refinement.gain == report.network.held_out.gap_layers
    assert refinement.half is not None
    assert 0 < refinement.half.value < refinement.gain.value  # more text finds more
    assert refinement.steps > 0
    for row in report.layers:
        assert row.gap is not None
        assert 0 < row.gap.value < refinement.gain.value


def test_one_that_was_trained_to_the_end_is_not_told_to() -> None:
    report = audited()
    assert report.verdict in (Verdict.GREEN, Verdict.GREY)
    assert report.network.refinement is not None
    assert report.network.refinement.half is not None
    assert report.headline.startswith(("effective: ", "inconclusive: the gap of its layers"))


def report_tolerance(report: AuditReport) -> float:
    return float(dict(report.settings)["tolerance"])  # type: ignore[arg-type]


def test_a_refined_network_is_saved_with_its_head_and_has_the_reported_loss(tmp_path: Path) -> None:
    folder = tmp_path / "refined"
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt-000250.pt"), schedules=("refined",), effort="quick", **SMALL)
    report = audit_config(config, save=Save(refined=folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "head.safetensors", *(f"layer-{layer:03}.safetensors" for layer in range(1, 5))
    ]  # fmt: skip
    with prepared(config) as audit:
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        for layer in range(1, 5):
            block = load_block(folder, decoder, layer)
            assert block.digest() != decoder.block(layer).digest()
            decoder = decoder.replacing(block)
        head = load_head(folder, decoder, Readout("refit", Unembedding.of(decoder)))
        tokens = torch.from_numpy(audit.calibration.held_out.tokens)
        final = trained_states(decoder, tokens, StateStore())[-1]
        everything = torch.arange(len(tokens))
        losses = head.losses(final, tokens, everything, "as saved").sum() / report.data.held_out.predicted_tokens
        own = Readout("own", Unembedding.of(decoder)).losses(final, tokens, everything, "as saved").sum()
    found = one(report, "refined").held_out
    assert found.bound.value == pytest.approx(losses, rel=1e-6)
    assert found.own.value == pytest.approx(own / report.data.held_out.predicted_tokens, rel=1e-6)
    assert found.bound.value < report.network.held_out.trained_readout_loss.value - 0.03


def test_without_refined_there_is_none_to_save(tmp_path: Path) -> None:
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt.pt"), effort="quick", **SMALL)
    audit_config(config, save=Save(refined=tmp_path / "refined", repairs=tmp_path / "repairs"))
    assert list(tmp_path.iterdir()) == []


def test_repairs_are_saved_with_the_gaps_that_are_reported(tmp_path: Path) -> None:
    settings = {**SMALL, "tokens": 1536, "schedules": ("final",)}
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt-000250.pt"), **settings)
    report = audit_config(config, save=Save(repairs=tmp_path / "repairs"))
    assert json_export.parse_report(json_export.export(report)) == report
    assert any(row.gap is not None and row.gap.low > 0 for row in report.layers)
    for row in report.layers:
        with safe_open(tmp_path / f"repairs/layer-{row.layer:03}.safetensors", framework="pt") as file:
            assert row.gap is not None
            assert float(file.metadata()["gap"]) == pytest.approx(row.gap.value)
            assert file.metadata()["layer"] == str(row.layer)
    assert len(list((tmp_path / "repairs").iterdir())) == 4
