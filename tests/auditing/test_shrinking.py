"""Networks without some of their blocks, as smaller checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peelaudit.auditing.fixing import Wish, fix
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import ConfigError, NothingToFix
from peelaudit.records import FixKind
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import parse_selector
from tests.auditing.fixed import transformers_loss, wish_for
from tests.checkpoints import models
from tests.places import NANOGPT

TYPES = ["sliding_attention", "full_attention", "full_attention"]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gemma3_text", {"layer_types": TYPES}),
        ("smollm3", {"no_rope_layers": [1, 0, 1]}),
        pytest.param("deepseek_v3", {"first_k_dense_replace": 1}, marks=pytest.mark.slow),
        pytest.param("gpt2", {"n_layer": 3}, marks=pytest.mark.slow),
    ],
)
def test_the_others_compute_what_they_did(family: str, changes: dict[str, object], tmp_path: Path) -> None:
    made = models.model(family, **({"num_hidden_layers": 3} | changes if family != "gpt2" else changes))
    config = wish_for(models.save(made, tmp_path / "base"), tmp_path, tolerance=9.0, effort="quick")
    found = fix(config, Wish(tmp_path / "out", drop=parse_selector("1")))
    assert (found.kind, found.dropped) == (FixKind.DROPPED, (1,))
    assert set(found.layers) <= {2, 3}
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.info.layers == 2
    assert transformers_loss(tmp_path / "out", config) == pytest.approx(found.after.value, abs=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "tokens.npy"}


FIXTURE = {"tokens": 4096, "seq_len": 32, "resamples": 100, "effort": "quick", "data": str(NANOGPT / "calibration.txt")}


def silenced(folder: Path) -> Path:
    """The fixture early in training, block 3 of which adds nothing any more."""
    state = torch.load(NANOGPT / "ckpt-000250.pt", weights_only=True)
    for writer in ("attn.c_proj", "mlp.c_proj"):
        state["model"][f"transformer.h.2.{writer}.weight"].zero_()
    torch.save(state, folder / "ckpt.pt")
    (folder / "meta.pkl").write_bytes((NANOGPT / "meta.pkl").read_bytes())
    return folder / "ckpt.pt"


def test_the_block_that_does_nothing_goes(tmp_path: Path) -> None:
    found = fix(AuditConfig(checkpoint=silenced(tmp_path), **FIXTURE), Wish(tmp_path / "out", drop="best"))
    assert found.dropped == (3,)
    assert found.layers == (1, 2, 4)
    assert found.gain.low > 0
    assert (tmp_path / "out/meta.pkl").is_file()


@pytest.mark.slow
def test_a_layer_that_is_named_is_refined(tmp_path: Path) -> None:
    """Here, as the damaged network is."""
    config = AuditConfig(checkpoint=silenced(tmp_path), **FIXTURE | {"effort": "default"})
    found = fix(config, Wish(tmp_path / "out", "named"))
    assert (found.kind, found.layers) == (FixKind.LAYERS, (3,))


def test_what_costs_too_much_stays(tmp_path: Path) -> None:
    config = AuditConfig(checkpoint=NANOGPT / "ckpt.pt", **FIXTURE)
    with pytest.raises(NothingToFix, match=r"leaving that out costs .* above the tolerance of 0\.01"):
        fix(config, Wish(tmp_path / "out", drop=parse_selector("2")))
    with pytest.raises(ConfigError, match="--drop has all 4 layers"):
        fix(config, Wish(tmp_path / "out", drop=parse_selector("*")))
    assert not list(tmp_path.iterdir())
