"""Whole audits of tiny models: what the report must hold whatever the model, and what it says of broken ones."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import peelaudit
from peelaudit.auditing.prepare import prepared
from peelaudit.auditing.run import audit_config, audit_prepared
from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CalibrationError, ConfigError, NonFiniteResult, UnsupportedCheckpoint
from peelaudit.network.decoder import Decoder
from peelaudit.records import AuditReport, Estimate, Outcome, Verdict
from peelaudit.records import json as json_export
from peelaudit.reports.gate import gate
from peelaudit.reports.pairing import Pairing
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.gate import GatePolicy
from peelaudit.settings.rules import parse_rule
from tests.auditing.support import SMALL, one, quick
from tests.checkpoints import models
from tests.places import FIXTURES, NANOGPT
from tests.variants import with_row


def without_timings(report: AuditReport) -> str:
    return json_export.export(dataclasses.replace(report, timings=()))


def save_tokens(folder: Path, vocabulary: int = 64, count: int = 4000) -> Path:
    path = folder / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, vocabulary, count).astype(np.uint16))
    return path


def mean_loss(model: transformers.PreTrainedModel, tokens: torch.Tensor) -> float:
    """transformers' own loss, nats/token."""
    with torch.no_grad():
        return float(model(input_ids=tokens, labels=tokens).loss)


def test_all_schedules_of_four_layers_are_the_eight_staircases() -> None:
    report = quick(schedules=("all",))
    mappings = {schedule.targets for schedule in report.schedules}
    assert mappings == {
        (1, 2, 3, 4), (1, 2, 4, 4), (1, 3, 3, 4), (2, 2, 3, 4), (1, 4, 4, 4), (2, 2, 4, 4), (3, 3, 3, 4), (4, 4, 4, 4)
    }  # fmt: skip
    assert len(report.schedules) == report.search.run == report.search.possible == 8


def test_yes_k_never_rises_on_the_tokens_that_it_is_least_on() -> None:
    yes = quick(schedules=("all",)).yes
    assert [bound.waypoints for bound in yes] == [0, 1, 2, 3]
    for tighter, looser in zip(yes[1:], yes, strict=False):
        assert tighter.fit <= looser.fit
        assert tighter.select <= looser.select


@pytest.mark.parametrize("solver", ["ridge", "adam", "ridge+adam"])
def test_direct_gives_the_trained_loss_back(solver: str) -> None:
    report = quick(schedules=("direct", "final"), solver=solver, readout="own", steps=8)
    direct = next(schedule for schedule in report.schedules if schedule.name == "direct")
    assert direct.held_out.own.value == pytest.approx(report.network.held_out.trained_loss.value, abs=1e-6)
    assert direct.fit.own.value == pytest.approx(report.network.fit.trained_loss.value, abs=1e-6)


def test_trained_loss_is_that_of_transformers_on_the_same_tokens() -> None:
    report = quick("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / "llama")
    config = AuditConfig(checkpoint=str(FIXTURES / "llama"), **SMALL)
    with open_checkpoint(FIXTURES / "llama") as checkpoint:
        calibration = load_calibration(config, checkpoint.info)
    for figures, split in ((report.network.held_out, calibration.held_out), (report.network.fit, calibration.fit)):
        theirs = mean_loss(model, torch.from_numpy(split.tokens))
        assert figures.trained_loss.value == pytest.approx(theirs, abs=1e-4)


def test_gaps_add_up_in_every_row() -> None:
    report = quick()
    rows = [report.network.fit, report.network.held_out]
    rows += [figures for layer in report.layers for figures in (layer.fit, layer.held_out)]
    for row in rows:
        assert row.gap_total.value == pytest.approx(row.gap_head.value + row.gap_layers.value, abs=1e-9)
        assert row.gap_layers.value == pytest.approx(row.trained_readout_loss.value - row.bound.value, abs=1e-9)
        assert row.gap_head.value == pytest.approx(row.trained_loss.value - row.trained_readout_loss.value, abs=1e-9)


def test_the_bound_on_fit_tokens_is_the_least_of_all_schedules() -> None:
    report = quick(schedules=("all",))
    assert report.network.fit.bound.value == min(schedule.fit.bound.value for schedule in report.schedules)
    chosen = min(report.schedules, key=lambda schedule: schedule.select.bound.value)
    assert report.network.held_out.bound == chosen.held_out.bound


def test_the_same_seed_gives_the_same_report_and_another_one_another() -> None:
    beside = {"schedules": ("final", "refined"), "solver": "ridge+adam", "steps": 2, "effort": "quick"}
    settings = {**SMALL, "tokens": 512, **beside}
    first, again = (peelaudit.audit(FIXTURES / "nanogpt/ckpt.pt", **settings) for _ in range(2))
    other = peelaudit.audit(FIXTURES / "nanogpt/ckpt.pt", **settings, seed=1)
    assert without_timings(first) == without_timings(again)
    assert without_timings(first) != without_timings(other)


def test_final_is_always_run_for_it_is_yes0() -> None:
    report = quick(schedules=("prefix:2",))
    assert [schedule.name for schedule in report.schedules] == ["prefix:2", "final"]


def test_a_search_runs_the_staircase_that_it_found() -> None:
    report = quick(schedules=("search:1",))
    found = report.schedules[0]
    assert found.waypoints is not None
    assert len(found.waypoints) == 1
    assert report.search.searched == 3


def test_an_explicit_mapping_that_goes_down_is_run() -> None:
    report = quick(schedules=("4,1,3,4",))
    assert report.schedules[0].targets == (4, 1, 3, 4)
    assert report.schedules[0].waypoints is None


def test_the_own_readout_leaves_no_gap_to_the_head() -> None:
    report = quick(schedules=("final",), readout="own", depth_readout="own")
    for row in report.layers:
        assert row.held_out.gap_head == Estimate(0.0, 0.0, 0.0)


def test_readouts_are_never_worse_on_select_than_the_own_head() -> None:
    report = quick(schedules=("all",))
    for schedule in report.schedules:
        assert schedule.select.bound.value <= schedule.select.own.value + 1e-9


def test_adam_from_random_weights_is_no_trained_network() -> None:
    report = quick(schedules=("direct",), solver="adam", init="random", steps=4)
    direct = report.schedules[0]
    assert direct.held_out.own.value > report.network.held_out.trained_loss.value + 0.1


def test_warm_started_adam_projects_no_worse_than_ridge() -> None:
    ridge = quick(schedules=("final",), solver="ridge", tokens=1536).schedules[0]
    both = quick(schedules=("final",), solver="ridge+adam", steps=20, tokens=1536).schedules[0]
    assert both.blocks[0].select_error <= ridge.blocks[0].select_error
    assert both.blocks[0].method == "adam"
    assert ridge.blocks[0].select_error <= ridge.blocks[0].trained_error


def test_settings_of_the_report_are_the_resolved_ones() -> None:
    settings = dict(quick().settings)
    assert settings["device"] in ("cpu", "cuda")
    assert settings["dtype"] == "float32"
    assert settings["seq_len"] == 64


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_agree_within_their_precision(dtype: str) -> None:
    reference = quick(schedules=("final",)).network.held_out
    other = quick(schedules=("final",), dtype=dtype).network.held_out
    within = 0.1 if dtype == "bfloat16" else 1e-4
    assert other.trained_loss.value == pytest.approx(reference.trained_loss.value, abs=within)
    assert other.yes0.value == pytest.approx(reference.yes0.value, abs=4 * within)


def test_an_untrained_network_loses_to_word_counts_and_the_report_says_so() -> None:
    report = quick("nanogpt/ckpt-000000.pt")
    assert report.network.held_out.trained_loss.value > report.baselines.unigram.value
    assert report.verdict is Verdict.RED
    assert report.headline.startswith("broken, untrained, or not made for this tokenizer")
    assert report.advice.startswith("Check the file before anything else")


def test_a_trained_network_beats_the_baselines() -> None:
    report = quick()
    assert report.network.held_out.trained_loss.high < report.baselines.unigram.low < report.baselines.uniform
    assert report.baselines.uniform == pytest.approx(np.log(59))


def test_a_scrambled_block_makes_the_references_win(tmp_path: Path) -> None:
    saved = torch.load(FIXTURES / "nanogpt/ckpt.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in saved["model"].items():
        if name.startswith("transformer.h.2.") and tensor.ndim > 1:
            saved["model"][name] = torch.randn(tensor.shape, generator=generator) * tensor.std() * 3
    torch.save(saved, tmp_path / "ckpt.pt")
    data, meta = FIXTURES / "nanogpt/calibration.txt", FIXTURES / "nanogpt/meta.pkl"
    report = peelaudit.audit(
        tmp_path / "ckpt.pt", data, tokenizer=str(meta), effort="quick", schedules="final", **SMALL
    )
    assert report.network.held_out.verdict in (Verdict.RED, Verdict.YELLOW)
    assert report.network.held_out.gap_layers.low > 0


@pytest.mark.parametrize("family", models.families())
def test_every_family_is_audited_and_its_loss_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    model = models.model(family)
    directory = models.save(model, tmp_path / "model")
    config = AuditConfig(
        checkpoint=str(directory), data=(str(save_tokens(tmp_path)),), tokens=1024, seq_len=24, resamples=100
    )
    report = peelaudit.audit(
        directory,
        config.data,
        tokens=1024,
        seq_len=24,
        resamples=100,
        schedules=("all",),
        depth_readout="lens",
        effort="quick",
    )
    with open_checkpoint(directory) as checkpoint:
        calibration = load_calibration(config, checkpoint.info)
    theirs = mean_loss(model, torch.from_numpy(calibration.held_out.tokens))
    assert report.network.held_out.trained_loss.value == pytest.approx(theirs, abs=1e-4)
    assert {schedule.name for schedule in report.schedules} == {"final", "direct"}


@pytest.mark.parametrize("layers", [1, 3])
def test_any_depth_is_audited(layers: int, tmp_path: Path) -> None:
    directory = models.save(models.model("llama", num_hidden_layers=layers), tmp_path / "model")
    report = peelaudit.audit(directory, save_tokens(tmp_path), tokens=1024, seq_len=16, resamples=100)
    assert len(report.layers) == layers
    assert len(report.schedules) == 2 ** (layers - 1) + 1
    assert report.schedules[0].name == "refined"
    assert report.network.refinement is not None
    assert all(row.gap is not None for row in report.layers)


def test_a_state_that_overflows_is_an_error_that_names_the_layer(tmp_path: Path) -> None:
    model = models.model("llama", num_hidden_layers=3)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(1e6)
        model.model.layers[1].mlp.down_proj.weight.fill_(3e38)
    directory = models.save(model, tmp_path / "model")
    with pytest.raises(NonFiniteResult, match="layer 2"):
        peelaudit.audit(directory, save_tokens(tmp_path), tokens=1024, seq_len=16, resamples=100)


def test_where_steps_lead_to_no_gradient_refining_ends_and_the_audit_goes_on(tmp_path: Path) -> None:
    """All words are alike to this network: its first step leads where the loss is finite and its gradient isn't."""
    model = models.model("phi")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(0.1)
    directory = models.save(model, tmp_path / "model")
    report = peelaudit.audit(directory, save_tokens(tmp_path, count=3000), tokens=768, seq_len=16, resamples=100)
    assert report.network.held_out.verdict is Verdict.RED


def test_too_few_fit_tokens_for_the_unknowns_are_warned_of(tmp_path: Path) -> None:
    directory = models.save(models.model("llama"), tmp_path / "model")
    wish = {"seq_len": 16, "schedules": "final", "effort": "quick", "resamples": 100}
    few, enough = (peelaudit.audit(directory, save_tokens(tmp_path), tokens=tokens, **wish) for tokens in (640, 1024))
    assert "48 unknowns" in " ".join(few.warnings)
    assert "unknowns" not in " ".join(enough.warnings)


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting"):
        peelaudit.audit(FIXTURES / "llama", nonsense=1)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")),
        pytest.param("mps", marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="MPS is here")),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}': torch finds no {device.upper()} device here"):
        peelaudit.audit(FIXTURES / "llama", device=device, **SMALL)


def test_a_device_that_lacks_the_dtype_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="dtype is 'float64': MPS has none"):
        peelaudit.audit(FIXTURES / "llama", device="mps", dtype="float64", **SMALL)


def test_schedules_that_do_not_fit_the_depth_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="prefix:9"):
        peelaudit.audit(FIXTURES / "llama", schedules=("prefix:9", "1,2"), **SMALL)


def test_json_names_are_those_of_the_method() -> None:
    data = json.loads(json_export.export(quick()))
    names = {"trained_loss", "yes0", "bound", "gap_total", "gap_head", "gap_layers", "verdict"}
    for part in (data, *data["layers"]):
        for split in ("fit", "held_out"):
            assert names <= part[split].keys()
            assert part[split]["bound"].keys() == {"value", "low", "high"}
    assert {"layer", "gap", "best_schedule", "best_target", "redundancy"} <= data["layers"][0].keys()


def test_references_get_no_biases_that_the_checkpoint_is_without() -> None:
    with open_checkpoint(FIXTURES / "nanogpt/ckpt.pt") as checkpoint:
        block = Decoder(checkpoint, seq_len=16, device=torch.device("cpu"), dtype=torch.float32).block(1)
    assert not any(writer.biased for writer in block.writers)
    assert all(parameter.any() for parameter in block.trainable().values())
    assert any(not parameter.any() for parameter in block.module.parameters())


def test_held_out_sums_are_what_the_figures_were_taken_from() -> None:
    report = quick(schedules="final")
    predictions = np.array(report.held_out_predictions)
    assert (predictions.sum(), len(predictions)) == (
        report.data.held_out.predicted_tokens,
        report.data.held_out.clusters,
    )
    for row in report.layers:
        sums, figures = row.held_out_sums, row.held_out
        for losses, figure in (
            (sums.own, figures.trained_loss),
            (sums.trained, figures.trained_readout_loss),
            (sums.yes0, figures.yes0),
            (sums.bound, figures.bound),
        ):
            assert losses is not None
            assert figure is not None
            assert len(losses) == len(predictions)
            assert sum(losses) / predictions.sum() == pytest.approx(figure.value, rel=1e-12)


def test_a_saved_report_draws_the_very_intervals_that_the_audit_drew() -> None:
    report = quick()
    nothing = (0.0,) * len(report.held_out_predictions)
    for row in report.layers:
        zeroed = with_row(report, row.layer, held_out_sums=dataclasses.replace(row.held_out_sums, own=nothing))
        change = Pairing(zeroed, report).change(row.layer, "trained_loss")
        assert change is not None
        assert change.difference == row.held_out.trained_loss


def test_a_blocks_digest_tells_which_block_was_changed(tmp_path: Path) -> None:
    saved = torch.load(FIXTURES / "nanogpt/ckpt.pt", weights_only=True)
    saved["model"]["transformer.h.2.mlp.c_fc.weight"] = saved["model"]["transformer.h.2.mlp.c_fc.weight"] * 1.001
    torch.save(saved, tmp_path / "ckpt.pt")
    digests = []
    for path in (FIXTURES / "nanogpt/ckpt.pt", tmp_path / "ckpt.pt"):
        with open_checkpoint(path) as checkpoint:
            decoder = Decoder(checkpoint, seq_len=8, device=torch.device("cpu"), dtype=torch.float32)
            digests.append([decoder.block(layer).digest() for layer in range(1, 5)])
    assert [a == b for a, b in zip(*digests, strict=True)] == [True, True, False, True]
    assert digests[0] == [row.weights_sha256 for row in quick().layers]


def test_the_rival_is_another_network_and_the_margin_its_distance() -> None:
    report = quick(schedules=("all",))
    assert report.network.best_schedule == "direct"  # the trained network itself: its gap is 0 by definition
    assert report.network.rival not in (None, "direct")
    rival = one(report, report.network.rival or "")
    assert report.network.margin is not None
    expected = rival.held_out.bound.value - report.network.held_out.trained_readout_loss.value
    assert report.network.margin.value == pytest.approx(expected, abs=1e-12)


def test_a_fit_that_the_tokens_do_not_determine_reaches_the_report() -> None:
    """64 fit tokens can't determine the 320 unknowns of each output of the fixture's MLP."""
    report = peelaudit.audit(
        NANOGPT / "ckpt.pt", tokens=128, seq_len=16, schedules=("final", "direct"), resamples=100, effort="quick"
    )
    fits = [fit for schedule in report.schedules for fit in schedule.blocks if fit.rank is not None]
    assert fits
    for fit in fits:
        assert fit.unknowns == 320
        assert 0 < fit.rank <= report.data.fit.tokens < fit.unknowns
        assert fit.condition is not None
        assert fit.condition >= 1
    assert any("undetermined" in warning for warning in report.warnings)
    assert not any("undetermined" in warning for warning in quick().warnings)


class Told:
    """A progress that keeps the names of the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def advance(self, steps: int = 1) -> None:
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' can't be audited: its blocks are recurrent"),
        # Building these configurations would take gigabytes, or has no end.
        ({"model_type": "hrm_text", "num_layers_per_stack": 100_000_000}, "'hrm_text' can't be audited"),
        ({"model_type": "git", "num_image_with_embedding": 100_000_000}, "'git' can't be audited"),
    ],
)
def test_row_78_a_family_that_cannot_be_audited_is_refused_before_anything_is_hashed_or_built(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, told = models.save(models.model("llama"), tmp_path / "model"), Told()
    (folder / "config.json").write_text(json.dumps(changes))
    with pytest.raises(UnsupportedCheckpoint, match=message):
        audit_config(AuditConfig(checkpoint=str(folder)), progress=told)
    assert told.stages == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_layer_norm_before": False}, "its blocks end in a norm"),
        ({"word_embed_proj_dim": 16}, "between its blocks and its head stands more than a norm"),
    ],
)
def test_a_variant_that_cannot_be_audited_is_refused_before_anything_is_hashed(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, told = models.save(models.model("opt", **changes), tmp_path / "model"), Told()
    with pytest.raises(UnsupportedCheckpoint, match=message) as caught:
        audit_config(AuditConfig(checkpoint=str(folder)), progress=told)
    assert str(caught.value).startswith(f"{folder}: ")
    assert told.stages == []


@pytest.mark.parametrize("changes", [{"data": ("missing.txt",)}, {"data": ("notes.docx",)}, {"tokenizer": "missing"}])
def test_what_else_a_run_needs_is_looked_for_before_the_checkpoint_is_opened(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.docx").write_text("text")
    told = Told()
    with pytest.raises(CalibrationError, match=next(str(value).strip("(),'") for value in changes.values())):
        audit_config(AuditConfig(checkpoint="no such checkpoint", **changes), progress=told)
    assert told.stages == []


def test_the_influence_of_every_block_is_in_the_report_and_a_gate_may_limit_it() -> None:
    report = quick()
    for row in report.layers:
        assert row.influence is not None
        assert 0 <= row.influence.low <= row.influence.value <= row.influence.high <= 2
    rule = parse_rule("layer.influence=2")
    checks = gate(report, GatePolicy(fail_over=(rule,)), today=date(2026, 1, 1)).checks
    assert [check.layer for check in checks] == [row.layer for row in report.layers]
    assert all(check.outcome is Outcome.PASSED for check in checks)


def test_calibration_data_edited_during_the_audit_are_noticed(tmp_path: Path) -> None:
    tokens = save_tokens(tmp_path, vocabulary=50)
    settings = {**SMALL, "effort": "quick", "schedules": ("final",)}
    with prepared(AuditConfig(checkpoint=str(NANOGPT / "ckpt.pt"), data=(str(tokens),), **settings)) as audit:
        save_tokens(tmp_path, vocabulary=40)
        with pytest.raises(CalibrationError, match=r"tokens\.npy: .* were edited, replaced or removed"):
            audit_prepared(audit)
