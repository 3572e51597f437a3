"""What the tokenizer's first token does: where it stands is what the trained network does better with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F

from peelaudit.auditing import feeding
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.identity import key_of, key_of_report
from peelaudit.auditing.prepare import prepared
from peelaudit.auditing.run import audit_config, audit_prepared
from peelaudit.calibration import Calibration, load_calibration
from peelaudit.network.states import StateStore
from peelaudit.records import CheckpointInfo
from peelaudit.settings.audit import AuditConfig, Bos
from tests.calibration.support import checkpoint
from tests.checkpoints.models import model, save

BOS, LETTERS = 1, "abcdefghijklmnopqrstuvwxyz ."
TEXT = "\f".join(f"{LETTERS[n % 26]}{LETTERS[n // 26 % 26]}{LETTERS[n * 7 % 26]} is a." for n in range(600))
"""Documents of nine characters, so that a sequence of sixteen tokens holds the beginning of one or two."""
QUICK = {"tokens": 3072, "seq_len": 16, "effort": "quick", "readout": "own", "schedules": ("final",), "resamples": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama, a character tokenizer that puts `<s>` in front, and a text of documents."""
    path = save(model("llama"), tmp_path_factory.mktemp("llama"))
    vocabulary = {"<unk>": 0, "<s>": BOS, **{char: 2 + index for index, char in enumerate(LETTERS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "text.txt").write_text(TEXT)
    (path / "long.txt").write_text("\f".join(4 * one for one in TEXT.split("\f")))
    (path / "stream.txt").write_text(TEXT.replace("\f", "\n"))
    return path


def config(folder: Path, bos: Bos = "auto", text: str = "text.txt") -> AuditConfig:
    return AuditConfig(checkpoint=str(folder), data=(str(folder / text),), bos=bos, **QUICK)  # type: ignore[arg-type]


def load(folder: Path, bos: Bos = "auto", text: str = "text.txt") -> Calibration:
    info: CheckpointInfo = dataclasses.replace(checkpoint(folder, vocabulary=64, context=32), path=str(folder))
    return load_calibration(config(folder, bos, text), info)


Losses = Callable[[Calibration], NDArray[np.float64]]


def network(monkeypatch: pytest.MonkeyPatch, *, bare: float, headed: float, first: float = 1.0) -> None:
    """One of so many nats a token in sequences without and with the token, and for the token itself."""

    def losses(calibration: Calibration, *_: object) -> NDArray[np.float64]:
        tokens = calibration.select.tokens
        each = np.where(tokens[:, :1] == BOS, headed, bare) * np.ones(tokens[:, 1:].shape)
        return np.where(tokens[:, 1:] == BOS, first, each)

    monkeypatch.setattr(feeding, "_select_losses", losses)


def choose(calibration: Calibration, wanted: Bos = "auto") -> Calibration:
    return fed(calibration, None, wanted, StateStore())  # type: ignore[arg-type]


def test_the_token_stands_where_the_network_does_better(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = load(folder, text="stream.txt")
    assert not (stream.select.tokens == BOS).any()
    network(monkeypatch, bare=5.0, headed=3.0)
    found = choose(stream)
    for split, before in ((found.fit, stream.fit), (found.select, stream.select), (found.held_out, stream.held_out)):
        assert (split.tokens[:, 0] == BOS).all()
        assert (split.tokens[:, 1:] == before.tokens[:, :-1]).all()
    front = found.info.front
    assert front is not None
    assert (front.placement, front.without, front.within, front.fed_only) == ("sequence", 5.0, 3.0, ())
    assert found.info.tokens_sha256 != stream.info.tokens_sha256 == found.info.drawn_sha256
    network(monkeypatch, bare=5.0, headed=4.995)
    assert (choose(stream).fit.tokens == stream.fit.tokens).all()
    network(monkeypatch, bare=3.0, headed=5.0)
    same = choose(stream)
    assert (same.fit.tokens == stream.fit.tokens).all()
    assert same.info.front is not None
    assert same.info.front.placement == "document"
    assert (same.info.tokens_sha256, same.info.drawn_sha256) == (stream.info.tokens_sha256, "")


@pytest.mark.parametrize(("wanted", "headed"), [("sequence", True), ("document", False), ("never", False)])
def test_the_setting_overrules(wanted: Bos, headed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch, bare=5.0 if not headed else 3.0, headed=3.0 if not headed else 5.0)
    found = choose(load(folder, wanted, "stream.txt"), wanted)
    assert (found.fit.tokens[:, 0] == BOS).all() == (found.fit.tokens == BOS).any() == headed
    assert (found.info.front is None) == (wanted == "never")
    assert (load(folder, wanted).fit.tokens == BOS).any() == (wanted != "never")


def test_sequences_that_begin_with_it_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch, bare=5.0, headed=3.0)
    documents = load(folder, text="long.txt")
    begins = documents.fit.tokens[:, 0] == BOS
    assert begins.any()
    assert not begins.all()
    found = choose(documents)
    assert (found.fit.tokens[begins] == documents.fit.tokens[begins]).all()
    assert (found.fit.tokens[~begins, 1:] == documents.fit.tokens[~begins, :-1]).all()


@pytest.mark.parametrize(("first", "left_out"), [(11.5, True), (0.5, False)])
def test_a_token_that_was_never_trained_for_is_no_target(
    first: float, left_out: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share among the targets is about one in ten: guessing by that would cost 2.3 nats."""
    network(monkeypatch, bare=3.0, headed=3.0, first=first)
    documents = load(folder)
    found = choose(documents, "document")
    for split, size in ((found.fit, found.info.fit), (found.held_out, found.info.held_out)):
        inside = int((split.tokens[:, 1:] == BOS).sum())
        assert inside > 0
        assert size.predicted_tokens == size.sequences * 15 - inside * left_out
        assert (split.fed_only is not None) == left_out
    assert found.info.front is not None
    assert found.info.front.fed_only == ((BOS,) if left_out else ())


def test_no_token_no_look(folder: Path) -> None:
    calibration = dataclasses.replace(load(folder), front=())
    assert choose(calibration) is calibration


@pytest.mark.parametrize("bos", ["sequence", "document"])
def test_an_audits_loss_is_transformers_own_on_the_tokens_that_are_targets(bos: Bos, folder: Path) -> None:
    """The random network predicts `<s>` worse than by its share, so that it is fed and is no target."""
    wanted = config(folder, bos)
    with prepared(wanted) as audit:
        report = audit_prepared(audit)
        held_out = audit.calibration.headed().held_out if bos == "sequence" else audit.calibration.held_out
        key = key_of(audit.config, audit.checkpoint.info, audit.calibration.info, dict(report.versions)["peelaudit"])
    tokens = torch.from_numpy(held_out.tokens)
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = made(tokens).logits[:, :-1]
    targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == BOS, -100)
    expected = float(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    assert report.network.held_out.trained_loss.value == pytest.approx(expected, abs=1e-5)
    assert report.data.front is not None
    assert report.data.front.fed_only == (BOS,)
    assert sum(report.held_out_predictions) == int((targets != -100).sum()) == report.data.held_out.predicted_tokens
    assert key_of_report(report) == key


def test_equal_settings_give_equal_reports(folder: Path) -> None:
    one, other = (audit_config(config(folder)) for _ in range(2))
    assert dataclasses.replace(one, timings=()) == dataclasses.replace(other, timings=())
    assert one.data.front is not None
    assert math.isfinite(one.data.front.within or math.nan)
