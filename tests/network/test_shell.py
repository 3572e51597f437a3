"""The shell of a network: what is around the blocks is proven to be what an audit takes it for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network.arguments import Arguments
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import family_of
from peelaudit.network.shell import Shell, prove
from peelaudit.network.unembedding import Unembedding
from tests.checkpoints import models

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    with open_checkpoint(models.save(models.model("llama"), tmp_path / "model")) as opened:
        yield opened


def proof(checkpoint: Checkpoint, tamper: Callable[[Any], None], **changes: Any) -> list[Arguments]:
    """What `prove` says of a llama whose module was tampered with, or of an unembedding that isn't its own."""
    shell = Shell(checkpoint, family_of(checkpoint), CPU, torch.float32)
    decoder = Decoder(checkpoint, seq_len=8, device=CPU, dtype=torch.float32)
    tamper(shell.model)
    return prove(shell, replace(Unembedding.of(decoder), **changes), 8, "a llama")


def test_a_sound_network_tells_what_its_blocks_are_called_with(checkpoint: Checkpoint) -> None:
    assert len(proof(checkpoint, lambda model: None)) == 2


def more_bias(model: Any) -> None:
    def add(_module: object, _args: object, output: Any) -> Any:
        output.logits = output.logits + torch.arange(64) * 1e-3
        return output

    model.register_forward_hook(add)


def skipped(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] * 1.001, *args[1:]))


def told_the_tokens(model: Any) -> None:
    def add(_module: object, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "more": args[0].mean(dim=-1)}

    model.model.layers[0].register_forward_pre_hook(add, with_kwargs=True)


def no_blocks(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda _, args: args[0].item())


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (more_bias, "logits aren't those of the final norm and the head alone"),
        (skipped, "hidden states are changed between one block and the next"),
        (told_the_tokens, "depends on more than the embedding"),
        (no_blocks, "can't run it without its blocks"),
    ],
)
def test_a_network_that_does_more_is_refused(
    tamper: Callable[[Any], None], message: str, checkpoint: Checkpoint
) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=f"^a llama: .*{message}"):
        proof(checkpoint, tamper)


@pytest.mark.parametrize("changes", [{"scale": 1.001}, {"softcap": 30.0}, {"bias": torch.ones(64).cumsum(0) * 1e-3}])
def test_an_unembedding_that_is_not_the_networks_is_refused(changes: dict[str, Any], checkpoint: Checkpoint) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="logits aren't those"):
        proof(checkpoint, lambda model: None, **changes)


def test_only_a_few_logits_are_made_for_it(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 260,000 times a thousand positions would be a gigabyte."""
    shapes: list[torch.Size] = []
    decoder = Decoder(checkpoint, seq_len=8, device=CPU, dtype=torch.float32)
    shell = Shell(checkpoint, decoder.family, CPU, torch.float32)
    shell.head.register_forward_hook(lambda _module, _args, logits: shapes.append(logits.shape))
    prove(shell, Unembedding.of(decoder), 24, "a llama")
    assert shapes == [(2, 8, 64)]


def test_a_padding_token_among_what_it_is_tried_on_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by changed files: transformers' warning of an attention mask in a terminal."""
    model = models.model("gpt2")
    model.config.pad_token_id = 3
    with open_checkpoint(models.save(model, tmp_path / "model")) as opened, caplog.at_level("WARNING"):
        logger = logging.getLogger("transformers")
        logger.addHandler(caplog.handler)
        try:
            shell = Shell(opened, family_of(opened), CPU, torch.float32)
            shell.model.config.pad_token_id = 3
            shell.embed(torch.full((2, 8), 3))
        finally:
            logger.removeHandler(caplog.handler)
    assert caplog.text == ""
