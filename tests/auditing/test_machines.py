"""An audit whose layers are refined by other processes finds what one process finds: here each begins from bytes."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from peelaudit.auditing.caching import Cache, Resumption
from peelaudit.auditing.machines import Common, Done, Piece, forget, refined_layers
from peelaudit.auditing.run import Save, audit_config
from peelaudit.errors import AuditError
from peelaudit.method.readouts import shortlist
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.records import AuditReport
from peelaudit.settings.audit import AuditConfig
from tests.fleet.support import write_model
from tests.places import FIXTURES


class Elsewhere:
    """As other processes: all that they have was stored, and what they find is. They may be `lost` after so many."""

    def __init__(self, name: str, lost: int | None = None) -> None:
        self.name, self.layers, self._lost = name, list[int](), lost

    def check(self, config: AuditConfig) -> None:
        assert config.device == "cpu"

    def __call__(self, common: Common, states: Sequence[Tensor], pieces: Iterable[Piece]) -> Iterator[Done]:
        stored = pickle.dumps((common, list(states)))

        def sent() -> Iterator[Piece]:
            for piece in pieces:
                if len(self.layers) == self._lost:
                    raise AuditError("lost")
                self.layers.append(piece.layer)
                yield pickle.loads(pickle.dumps(piece))

        for done in refined_layers(self.name, lambda: pickle.loads(stored), sent()):
            yield pickle.loads(pickle.dumps(done))


@pytest.fixture(autouse=True)
def _nothing_is_held() -> Iterator[None]:
    yield
    forget()


def undated(report: AuditReport) -> AuditReport:
    return dataclasses.replace(report, timings=())


def settings(checkpoint: Path, **given: object) -> AuditConfig:
    return AuditConfig(checkpoint=str(checkpoint), schedules=("refined",), resamples=100, **given)


@pytest.mark.parametrize(
    ("fixture", "effort"),
    [
        ("llama-ternary", "default"),
        pytest.param("nanogpt/ckpt-000250.pt", "default", marks=pytest.mark.slow),
        pytest.param("llama", "thorough", marks=pytest.mark.slow),
    ],
)
def test_the_report_is_that_of_one_process(fixture: str, effort: str, tmp_path: Path) -> None:
    data = () if fixture != "nanogpt/ckpt-000250.pt" else (str(FIXTURES / "nanogpt/calibration.txt"),)
    tokenizer = str(FIXTURES / "nanogpt/meta.pkl") if data else None
    config = settings(FIXTURES / fixture, tokens=1024, seq_len=32, data=data, tokenizer=tokenizer, effort=effort)
    elsewhere = Elsewhere(f"{fixture} {effort}")
    shared = audit_config(config, machines=elsewhere, save=Save(repairs=tmp_path / "shared"))
    alone = audit_config(config, save=Save(repairs=tmp_path / "alone"))
    assert undated(shared) == undated(alone)
    assert elsewhere.layers == list(range(shared.checkpoint.layers - 1, 0, -1))
    paths = list((tmp_path / "alone").iterdir())
    assert len(paths) == shared.checkpoint.layers
    for path in paths:
        one, other = load_file(path), load_file(tmp_path / "shared" / path.name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_their_looks_have_in_common_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "FEW_WORDS", 0)
    monkeypatch.setattr(shortlist, "SHORT", 1.0)
    config = settings(FIXTURES / "llama", tokens=512, seq_len=32, effort="default")
    plan = dataclasses.replace(config, schedules=("direct",))
    elsewhere = Elsewhere("what looks have in common")
    assert undated(audit_config(plan, machines=elsewhere)) == undated(audit_config(plan))
    assert elsewhere.layers


@pytest.mark.slow
def test_of_a_deep_network_too_whose_layers_begin_by_another_ones_step(tmp_path: Path) -> None:
    config = settings(write_model(tmp_path / "deep.pt", seed=3, layers=12), tokens=4096, seq_len=32)
    elsewhere = Elsewhere("deep")
    assert undated(audit_config(config, machines=elsewhere)) == undated(audit_config(config))
    assert elsewhere.layers == list(range(11, 0, -1))


def test_machines_that_are_lost_leave_what_they_found(tmp_path: Path) -> None:
    config = settings(write_model(tmp_path / "ckpt.pt", seed=1, layers=4), tokens=1536, seq_len=32)
    cache = Cache(tmp_path / "cache", patience_s=0)
    with pytest.raises(AuditError, match="lost"):
        audit_config(config, machines=Elsewhere("first", lost=1), resumption=Resumption(cache))
    elsewhere = Elsewhere("second")
    found = audit_config(config, machines=elsewhere, resumption=Resumption(cache))
    assert elsewhere.layers == [1]  # the fourth and the third were found, and the second is done here
    assert undated(found) == undated(audit_config(config))


@pytest.mark.parametrize("what", ["checkpoint", "peelaudit"])
def test_another_checkpoint_or_program_there_is_refused(what: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "ckpt.pt", seed=1, layers=2)
    other = write_model(tmp_path / "other/ckpt.pt", seed=2, layers=2)

    class Elsewhen(Elsewhere):
        def __call__(self, common: Common, states: Sequence[Tensor], pieces: Iterable[Piece]) -> Iterator[Done]:
            config = dataclasses.replace(common.config, checkpoint=str(other))
            changed = {"config": config} if what == "checkpoint" else {"computes": "otherwise"}
            return super().__call__(dataclasses.replace(common, **changed), states, pieces)

    with pytest.raises(AuditError, match=f"another {what}"):
        audit_config(settings(path, tokens=1536, seq_len=32), machines=Elsewhen("another"))


def test_memory_that_runs_out_there_is_told_and_the_next_layer_begins_as_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(Elsewhere):
        def __call__(self, common: Common, states: Sequence[Tensor], pieces: Iterable[Piece]) -> Iterator[Done]:
            real, sizes = Refiner.alone, []

            def alone(self: Refiner, *args: object, **options: object) -> Refined:
                sizes.append(self._network.down.decoder.memory.tokens)
                if len(sizes) == 1:
                    raise MemoryError
                return real(self, *args, **options)

            monkeypatch.setattr(Refiner, "alone", alone)
            yield from super().__call__(common, states, pieces)
            assert sizes == [4096, 2048, 4096]

    config = settings(write_model(tmp_path / "ckpt.pt", seed=1, layers=3), tokens=1536, seq_len=32)
    report = audit_config(config, machines=Short("short"))
    assert [text for text in report.warnings if "memory ran out" in text] == [
        "layers' gaps: memory ran out, and it was begun anew with 2,048 tokens at once"
    ]
