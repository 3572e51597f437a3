"""Faults planted in the trained fixtures, and mended: as told, and by no less than the report's layer gap."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from peelaudit.auditing.faults import damaged
from peelaudit.auditing.fixing import Wish, fix
from peelaudit.auditing.run import audit_config
from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.patching import OwnFiles
from peelaudit.network.decoder import Decoder
from peelaudit.records import FaultKind
from peelaudit.settings.audit import AuditConfig
from tests.auditing.fixed import loss_of
from tests.places import FIXTURES

TOKENS = {
    FaultKind.REINITIALISED: 4096,
    FaultKind.MLP_ZEROED: 4096,
    FaultKind.ATTENTION_ZEROED: 4096,
    FaultKind.ONE_BIT: 4096,
    FaultKind.HEAD_SCRAMBLED: 16384,
}
"""Of a fault that costs under 0.05 nats/token less text gives back about the gap, or nothing."""
LAYER = 2


def planted(source: Path, kind: FaultKind, folder: Path) -> Path:
    """A copy of a checkpoint with a fault, and of what stands beside it."""
    folder.mkdir()
    for beside in ("config.json", "tokenizer.json", "tokenizer_config.json", "meta.pkl", "calibration.txt"):
        home = source if source.is_dir() else source.parent
        if (home / beside).exists():
            shutil.copyfile(home / beside, folder / beside)
    with open_checkpoint(source) as checkpoint:
        decoder = Decoder(checkpoint, seq_len=32, device=torch.device("cpu"), dtype=torch.float32)
        block = damaged(decoder.block(LAYER), kind, heads=checkpoint.info.heads, seed=0)
        files, prefix = OwnFiles(checkpoint), f"{decoder.family.blocks}.{LAYER - 1}."
        files.copy(folder)
        files.put(folder, {prefix + name: tensor for name, tensor in block.present().items()})
        files.close()
    return folder if source.is_dir() else folder / source.name


def of_transformers(path: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers loads it; nanoGPT's, which it can't, in its own GPT-2."""
    if path.is_dir():
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with open_checkpoint(path) as checkpoint:
        made = transformers.GPT2LMHeadModel(checkpoint.config)
        made.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return made.eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(TOKENS))
@pytest.mark.parametrize("source", ["llama", "nanogpt/ckpt.pt"])
def test_a_fault_is_mended_by_its_gap_at_least(source: str, kind: FaultKind, tmp_path: Path) -> None:
    path = planted(FIXTURES / source, kind, tmp_path / "broken")
    config = AuditConfig(checkpoint=path, tokens=TOKENS[kind], resamples=200, bos="never")
    found = fix(config, Wish(tmp_path / "out"))
    written = tmp_path / "out" / path.name if path.is_file() else tmp_path / "out"
    assert loss_of(of_transformers(written), config) == pytest.approx(found.after.value, abs=1e-5)
    gap = audit_config(dataclasses.replace(config, schedules=("final",))).layers[LAYER - 1].gap
    assert gap is not None
    assert found.gain.low > 0
    assert found.gain.value >= gap.value
