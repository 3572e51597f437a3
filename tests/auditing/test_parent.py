"""A network against its parent: each layer's gap by a forward pass of transformers, what is said, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import peelaudit
from peelaudit.auditing import memory as planning
from peelaudit.auditing.caching import Cache, Resumption
from peelaudit.auditing.identity import key_of_report
from peelaudit.auditing.prepare import prepared
from peelaudit.auditing.run import audit_config
from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import ConfigError, NonFiniteWeights, UnreadableCheckpoint
from peelaudit.method.diagnosis.swaps import Swaps
from peelaudit.network.decoder import Decoder
from peelaudit.records import AuditReport, Outcome
from peelaudit.reports.compare import Status, compare
from peelaudit.reports.gate import gate
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.gate import GatePolicy
from peelaudit.settings.rules import parse_rule
from tests.checkpoints import gguf_models, models
from tests.places import FIXTURES, NANOGPT

SMALL: dict[str, Any] = {"tokens": 1536, "seq_len": 32, "resamples": 100, "effort": "quick", "schedules": "direct"}
LLAMA, STEP = FIXTURES / "llama", NANOGPT / "ckpt-001200.pt"
IDS = np.random.default_rng(0).integers(0, 64, (96, 16))
ZERO = peelaudit.records.Estimate(0.0, 0.0, 0.0)


def against(checkpoint: Path, parent: Path, **settings: Any) -> AuditReport:
    return peelaudit.audit(checkpoint, **{**SMALL, "parent": parent, **settings})


def gaps(report: AuditReport) -> list[float]:
    return [row.parent_gap.value for row in report.layers if row.parent_gap is not None]


def rounded(folder: Path, bits: Mapping[int, int], source: Path = LLAMA) -> Path:
    """A copy of a Llama directory, the matrices of each layer at so many bits."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, weight in tensors.items():
        layer = int(name.split(".")[2]) + 1 if name.startswith("model.layers.") else None
        if layer in bits and weight.ndim == 2:
            scale = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits[layer] - 1) - 1)
            tensors[name] = ((weight / scale).round() * scale).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Llama fixture at 6 bits, its second layer at 2."""
    return rounded(tmp_path_factory.mktemp("rounded") / "coarse", {1: 6, 2: 2, 3: 6, 4: 6})


@pytest.fixture(scope="module")
def found(coarse: Path) -> AuditReport:
    return against(coarse, LLAMA)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random network whose second block isn't its parent's, and that parent, with a file of tokens beside each."""
    root = tmp_path_factory.mktemp("pair")
    parent = models.model("llama")
    model = copy.deepcopy(parent)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 2
    np.save(root / "ids.npy", IDS.astype(np.uint16))
    return models.save(model, root / "new"), models.save(parent, root / "parent")


def of_pair(pair: tuple[Path, Path], **settings: Any) -> AuditConfig:
    data = (str(pair[0].parent / "ids.npy"),)
    return AuditConfig(
        **{**SMALL, "checkpoint": pair[0], "parent": pair[1], "data": data, "seq_len": 16, "tokens": 512, **settings}
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mixtral"])
def test_the_gap_is_the_loss_less_that_with_the_parents_block(family: str, tmp_path: Path) -> None:
    parent = models.model(family)
    model = copy.deepcopy(parent)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    np.save(tmp_path / "ids.npy", IDS.astype(np.uint16))
    paths = models.save(model, tmp_path / "new"), models.save(parent, tmp_path / "parent")
    settings = {**SMALL, "seq_len": 16, "data": (str(tmp_path / "ids.npy"),)}
    report = against(*paths, **settings)
    with prepared(AuditConfig(checkpoint=paths[0], **settings)) as audit:
        tokens = torch.from_numpy(audit.calibration.held_out.tokens)

    def loss(one: Any) -> float:
        with torch.no_grad():
            return float(one(input_ids=tokens, labels=tokens).loss)

    for layer, found in enumerate(gaps(report)):
        other, taken = copy.deepcopy(model), parent
        blocks = "transformer.h" if family == "gpt2" else "model.layers"
        other.get_submodule(blocks)[layer] = taken.get_submodule(blocks)[layer]
        assert found == pytest.approx(loss(model) - loss(other), abs=2e-5)
    assert report.parent is not None
    assert report.parent.loss.value == pytest.approx(loss(parent), abs=2e-5)
    assert report.parent.difference.value == pytest.approx(loss(model) - loss(parent), abs=2e-5)


def test_a_checkpoint_against_itself_loses_nothing_to_the_last_digit() -> None:
    report = against(LLAMA, LLAMA)
    assert report.parent is not None
    assert [row.parent_gap for row in report.layers] == [ZERO] * len(report.layers)
    assert (report.parent.difference, report.parent.better) == (ZERO, ())
    assert "parent's" not in report.headline + report.advice


def test_the_layer_that_was_rounded_most_is_named_and_the_parent_is_told(found: AuditReport, coarse: Path) -> None:
    parent = found.parent
    assert parent is not None
    assert max(range(4), key=gaps(found).__getitem__) == 1
    assert parent.better[0] == 2
    assert "its parent's block does better in layer 2 by" in found.headline
    assert "The parent's block does better in layer" in found.advice
    assert (parent.checkpoint.path, parent.checkpoint.tensors) == (str(LLAMA), ())
    assert parent.checkpoint.sha256 == peelaudit.audit(LLAMA, **SMALL).checkpoint.sha256


def test_blocks_that_are_the_same_lose_nothing_and_are_not_run(tmp_path: Path) -> None:
    report = against(rounded(tmp_path / "one", {4: 2}), LLAMA)
    assert [row.parent_gap for row in report.layers[:3]] == [ZERO] * 3
    assert report.parent is not None
    assert gaps(report)[3] == pytest.approx(report.parent.difference.value, abs=1e-5)
    assert dict(report.passes)["swap the blocks"] < 1  # of which both own passes over held-out take a half


def test_a_step_of_the_same_run_is_a_parent() -> None:
    report = against(NANOGPT / "ckpt.pt", STEP)
    assert report.parent is not None
    assert report.parent.checkpoint.training_step == 1200
    assert report.parent.difference.high < 0
    assert len(gaps(report)) == 4


def test_bits_are_of_the_audited_network_alone() -> None:
    report = against(LLAMA, LLAMA, bits="int2")
    assert 0 not in gaps(report)
    assert report.parent is not None
    floats = report.network.held_out.trained_loss.value - report.parent.difference.value
    assert report.parent.loss.value == pytest.approx(floats, abs=1e-5)
    assert report.parent.difference.low > 0


def test_the_same_weights_under_another_configuration_are_another_block(tmp_path: Path) -> None:
    shutil.copytree(LLAMA, tmp_path / "turned")
    path = tmp_path / "turned" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rms_norm_eps"] = 0.5
    path.write_text(json.dumps(config), encoding="utf-8")
    report = against(tmp_path / "turned", LLAMA)
    assert all(gap != 0 for gap in gaps(report))


def test_another_architecture_and_another_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are not of one architecture: family"):
        against(LLAMA, STEP)
    other = shutil.copytree(LLAMA, tmp_path / "llama")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{other} has another vocabulary: its tokenizer makes other tokens"):
        against(LLAMA, other)
    (other / "tokenizer.json").unlink()
    assert any(f"{other} has no tokenizer that can be read" in words for words in against(LLAMA, other).warnings)
    with pytest.raises(UnreadableCheckpoint, match="nowhere"):
        against(LLAMA, tmp_path / "nowhere")


def test_a_parent_with_a_weight_that_is_no_number_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(pair[1], tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, other / "new", {"format": "pt"})
    (other / "new").rename(other / "model.safetensors")
    with pytest.raises(NonFiniteWeights, match=r"other.*layers\.0\.mlp\.up_proj"):
        audit_config(of_pair(pair, parent=other))


def test_a_parent_that_predicts_nothing_is_said_to_tell_nothing(tmp_path: Path) -> None:
    other = shutil.copytree(LLAMA, tmp_path / "drawn")
    tensors = load_file(other / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    drawn = {name: weight.std() * torch.randn(weight.shape, generator=generator) for name, weight in tensors.items()}
    save_file({name: drawn[name] if tensors[name].ndim == 2 else tensors[name] for name in tensors}, other / "x")
    (other / "x").rename(other / "model.safetensors")
    report = against(LLAMA, other)
    assert any("the parent predicts this text worse" in words for words in report.warnings)


def test_the_parents_content_is_part_of_what_an_audit_is_and_its_place_is_not(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    found = audit_config(of_pair(pair))
    with prepared(of_pair(pair)) as audit:
        assert key_of_report(found) == audit.key
    moved = audit_config(of_pair(pair, parent=shutil.copytree(pair[1], tmp_path / "moved")))
    plain, other = (audit_config(of_pair(pair, parent=parent)) for parent in (None, pair[0]))
    assert key_of_report(moved) == key_of_report(found)
    assert len({key_of_report(report) for report in (plain, other, found)}) == 3
    assert (plain.parent, gaps(plain)) == (None, [])


def test_an_audit_that_goes_on_takes_the_figures_over(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = audit_config(of_pair(pair), resumption=Resumption(Cache(tmp_path, patience_s=0)))

    def refuse(*_: object) -> None:
        raise AssertionError("swapped anew")

    monkeypatch.setattr(Swaps, "run", refuse)
    second = audit_config(of_pair(pair), resumption=Resumption(Cache(tmp_path, patience_s=0)))
    assert dataclasses.replace(second, timings=()) == dataclasses.replace(first, timings=())
    with pytest.raises(AssertionError, match="swapped anew"):
        audit_config(of_pair(pair, parent=pair[0]), resumption=Resumption(Cache(tmp_path, patience_s=0)))


def test_a_limit_of_memory_changes_no_figure_and_keeps_no_block_of_the_parent(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "own_memory", lambda: 0)
    monkeypatch.setattr(planning, "SLACK", 0)
    kept: list[int | None] = []
    beside = Decoder.beside

    def told(decoder: Decoder, checkpoint: Checkpoint) -> Decoder:
        found = beside(decoder, checkpoint)
        kept.append(found.memory.block_bytes)
        return found

    monkeypatch.setattr(Decoder, "beside", told)
    usual, limited = (audit_config(of_pair(pair, max_memory=limit)) for limit in (None, "700KiB"))
    assert kept == [None, 0]
    assert gaps(limited) == pytest.approx(gaps(usual), abs=1e-5)


def test_the_gate_limits_it_and_says_what_it_needs(found: AuditReport) -> None:
    policy = GatePolicy(fail_over=(parse_rule("layer.parent_gap=0.01"),))
    outcomes = {check.layer: check.outcome for check in gate(found, policy, today=date(2026, 1, 1)).checks}
    assert outcomes[2] is Outcome.FAILED
    rows = tuple(dataclasses.replace(row, parent_gap=None) for row in found.layers)
    with pytest.raises(ConfigError, match="needs an audit with --parent"):
        gate(dataclasses.replace(found, layers=rows), policy, today=date(2026, 1, 1))


def test_reports_against_another_parent_or_none_are_compared_as_any(pair: tuple[Path, Path]) -> None:
    plain, found, other = (audit_config(of_pair(pair, parent=parent)) for parent in (None, pair[1], pair[0]))
    for base in (plain, other):
        rows = compare(base, found).rows
        assert {(row.status, row.parent_gap) for row in rows} == {(Status.UNCHANGED, None)}
    paired = [row.parent_gap for row in compare(found, found).rows]
    assert paired[0] is None
    assert [gap.difference for gap in paired[1:] if gap] == [ZERO, ZERO]


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_parent_is_of_another_format_and_other_bits(kind: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model = models.model("llama", intermediate_size=64)
    parent = models.save(model, tmp_path / "parent")
    found = tmp_path / "new.gguf"
    gguf_models.convert(model, found, kind=getattr(gguf.GGMLQuantizationType, kind))
    report = audit_config(of_pair(pair, checkpoint=found, parent=parent))
    assert report.parent is not None
    assert [gap == 0 for gap in gaps(report)] == [kind == "F32"] * 2
    assert max(map(abs, gaps(report))) < 0.01
    assert (report.checkpoint.format, report.parent.checkpoint.format) == ("gguf", "huggingface/safetensors")


def test_a_module_in_memory_has_a_parent_too(pair: tuple[Path, Path]) -> None:
    model = models.model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 2
    report = peelaudit.audit(
        model, pair[0].parent / "ids.npy", **{**SMALL, "seq_len": 16, "tokens": 512}, parent=pair[1]
    )
    assert report.layers == audit_config(of_pair(pair)).layers
    held = peelaudit.audit(model, IDS, **{**SMALL, "seq_len": 16, "tokens": 512}, parent=pair[1])
    assert [gap == 0 for gap in gaps(held)] == [True, False]
