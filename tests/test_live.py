"""Modules in memory: audited as their checkpoints are, and left as they were."""

from __future__ import annotations

import copy
import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from torch import nn

import peelaudit
from peelaudit import CalibrationError, CheckpointError, ConfigError, OutputError, Verdict
from tests.checkpoints import models

SMALL: dict[str, Any] = {"tokens": 512, "seq_len": 16, "resamples": 100, "effort": "quick"}
IDS = np.random.default_rng(0).integers(0, 64, (128, 16))


@pytest.mark.parametrize("family", models.families())
def test_a_module_has_the_figures_of_its_checkpoint(family: str, tmp_path: Path) -> None:
    model = models.model(family)
    np.save(tmp_path / "ids.npy", IDS.astype(np.uint16))
    saved = peelaudit.audit(models.save(model, tmp_path / "saved"), tmp_path / "ids.npy", **SMALL)
    found = peelaudit.audit(model, tmp_path / "ids.npy", **SMALL)
    assert found.network == saved.network
    assert found.layers == saved.layers
    assert (found.checkpoint.format, found.checkpoint.files) == ("module", ())


def small(model: nn.Module, data: Any = IDS, **settings: Any) -> Any:
    return peelaudit.audit(model, data, **{**SMALL, "schedules": "direct", **settings})


def test_everything_is_left_as_it_was() -> None:
    model = models.model("llama").train()
    model.model.layers[0].eval()
    model.model.norm.weight.requires_grad_(requires_grad=False)
    model(torch.from_numpy(IDS[:2]), labels=torch.from_numpy(IDS[:2])).loss.backward()
    called: list[object] = []
    model.register_forward_hook(lambda *_: called.append(1))
    weights = {name: (weight.clone(), weight.data_ptr()) for name, weight in model.state_dict().items()}
    grads = {name: None if w.grad is None else w.grad.clone() for name, w in model.named_parameters()}
    asked = {name: weight.requires_grad for name, weight in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    config = model.config.to_dict()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    torch.set_num_threads(2)
    state = random.getstate(), str(np.random.get_state()), torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        small(model, IDS[:12], tokens=192)  # two threads on cores that others use take ten times as long as one
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    assert (state[0], state[1], state[3]) == (after[0], after[1], after[3])
    assert torch.equal(state[2], after[2])
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name][0])
        assert weight.data_ptr() == weights[name][1]
    for name, parameter in model.named_parameters():
        before = grads[name]
        assert (parameter.grad is None) if before is None else torch.equal(parameter.grad, before)
        assert parameter.requires_grad == asked[name]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.config.to_dict() == config
    assert not called


def test_what_a_process_is_set_to_changes_nothing() -> None:
    model = models.model("llama")
    plain = small(model).network
    with torch.inference_mode():
        assert small(model).network == plain
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small(model).network == plain
    torch.set_default_dtype(torch.float64)
    try:
        assert small(model).network == plain
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert small(model).network == plain
        assert torch.empty(1).is_meta


def test_a_report_says_what_the_weights_were_then() -> None:
    model = models.model("llama")
    first = small(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    second = small(model)
    assert first.checkpoint.sha256 != second.checkpoint.sha256
    changed = [a.weights_sha256 != b.weights_sha256 for a, b in zip(first.layers, second.layers, strict=True)]
    assert changed == [False, True]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's
def test_modules_within_others() -> None:
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = models.model("qwen2")
    assert small(Wrapped(model)).network == small(model).network
    assert small(torch.compile(model)).network == small(model).network


def test_nanogpts_own_class() -> None:
    @dataclasses.dataclass
    class GPTConfig:
        n_layer: int = 2
        n_head: int = 4
        n_embd: int = 32
        block_size: int = 16
        vocab_size: int = 64
        bias: bool = False
        dropout: float = 0.0

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = GPTConfig()
            self.held = models.nanogpt(bias=False)["model"]

        def state_dict(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
            return self.held

    assert small(GPT()).checkpoint.family == "gpt2"


def words() -> transformers.PreTrainedTokenizerFast:
    vocabulary = {f"w{number}": number for number in range(64)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def test_texts_by_a_tokenizer_are_the_ids_that_it_makes() -> None:
    model = models.model("llama")
    texts = [" ".join(f"w{number}" for number in row) for row in IDS.tolist()]
    by_texts, by_ids = small(model, texts, tokenizer=words()), small(model, IDS.tolist())
    assert by_texts.network == by_ids.network
    assert (by_texts.data.kind, by_ids.data.kind) == ("texts", "ids")
    assert by_texts.data.tokenizer == type(words()).__name__
    assert by_texts.data.documents == 128
    assert small(model, torch.from_numpy(IDS)).network == by_ids.network
    assert small(model, [torch.from_numpy(row) for row in IDS]).network == by_ids.network
    assert small(model, IDS.flatten()).data.unit == "sequence"


@pytest.mark.parametrize(
    ("data", "words_of_it"),
    [
        ([], "no document"),
        ([[1, 2], "text"], "neither texts alone"),
        ([[1, 2.5]], "neither texts alone"),
        ([[1, 64]] * 9, "token id 64"),
        (["w1"] * 99, "there is no tokenizer"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, words_of_it: str) -> None:
    with pytest.raises(CalibrationError, match=words_of_it):
        small(models.model("llama"), data)


def test_what_is_no_language_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="Linear: has no config of transformers"):
        small(nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="isn't in memory"):
        small(copy.deepcopy(models.model("llama")).to("meta"))
    with pytest.raises(ConfigError, match="adapter is for a saved checkpoint"):
        small(models.model("llama"), adapter="x")


def test_a_report_is_saved_and_shown(tmp_path: Path) -> None:
    report = small(models.model("llama"))
    assert isinstance(report.verdict, Verdict)
    for suffix in ("json", "html", "md", "csv", "xml", "txt"):
        report.save(tmp_path / f"r.{suffix}")
        assert (tmp_path / f"r.{suffix}").stat().st_size > 500
    with pytest.raises(OutputError, match=r"r\.docx can't be written: expected a name that ends in one of \.txt"):
        report.save(tmp_path / "r.docx")
    shown = report._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2


def test_a_reports_frame_is_its_csv() -> None:
    pandas = pytest.importorskip("pandas")
    frame = small(models.model("llama")).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) >= 2
