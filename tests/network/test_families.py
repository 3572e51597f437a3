"""Families found by structure: every one that transformers has is audited as transformers computes it, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

import peelaudit
from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.configuration import build_skeleton
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.method.references.writers import observe, split_change, trainable_writers
from peelaudit.network import families
from peelaudit.network.families import admit, family_of
from peelaudit.network.linear import tapped
from peelaudit.network.structure import find_structure
from peelaudit.network.unembedding import Unembedding
from tests.checkpoints import models
from tests.network.registry import FAMILIES, early_refusal, tiny_model, tiny_values
from tests.networks import Network, opened
from tests.places import ROOT

TRAITS = (
    *(
        "bloom",
        "cohere2",
        "exaone4",
        "falcon",
        "flint",
        "gemma2",
        "glm4",
        "gpt_bigcode",
        "gpt_neo",
        "gptj",
        "granite",
        "helium",
    ),
    *("minicpm3", "mpt", "nanochat", "nemotron", "olmo", "stablelm", "xglm"),
)
"""ALiBi, parallel halves, factors, soft caps, norms behind writers, tuples returned, latent keys, no positions, …"""

MIXTURES = (
    *("afmoe", "flex_olmo", "llama4_text"),
    *("deepseek_v3", "gpt_oss", "granitemoe", "minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"),
)
"""A norm behind all experts, experts that are given all tokens, that have biases, whose matrices are kept the other way
round, beside an MLP with a gate; routers of some kinds.
"""

NORMED = ("exaone4", "gemma2", "gemma4_text", "glm4")
"""Those of them whose writers' products pass a norm."""

IN_FLOAT64 = tuple(family for family in TRAITS if family != "xglm")
"""Those that transformers can compute so: XGLM's attention makes a float32 of float64's least number."""

REASONS = {
    "experts that are computed in a way that isn't known": (
        r"can't be audited: its experts are computed in a way that isn't known",
    ),
    "other things added to the residual stream than a linear map's products": (
        r"can't be audited: what its blocks add to the residual stream isn't a linear map's product( \(\w+\))?",
        r"can't be audited: its blocks don't add to a residual stream",
    ),
    "recurrent, state-space or linear-attention blocks, or a hybrid with them": (
        r"can't be audited: its blocks are recurrent or convolutions, not attention alone",
        r"can't be audited: its blocks are recurrent, or some of them are",
    ),
    "encoder (its `is_decoder` is off)": (r"is an encoder; only decoder-only models are audited",),
    "decoder of an encoder-decoder": (
        r"is an encoder-decoder; only decoder-only models are audited",
        r"can't be audited: it is the decoder of an encoder-decoder",
    ),
    "blocks that are given the tokens besides, or share keys and values": (
        r"can't be audited: its blocks are given the tokens besides, or other blocks' keys and values",
    ),
    "part of a model of more than text": (
        r"isn't a decoder-only language model",
        r"can't be audited: it is a part of a model of more than text",
    ),
    "layers that are run in loops, or aren't modules called one after another": (
        r"can't be audited: its layers are not modules that are called one after another",
    ),
    "more than a norm, a linear head, a factor and a soft cap behind the blocks": (
        r"can't be audited: its logits are more than a norm, a head, a factor and a soft cap \(\w+\)",
        r"can't be audited: between its blocks and its head stands more than a norm \(\w+\)",
    ),
    "blocks that end in a norm of the residual stream": (
        r"can't be audited: its blocks end in a norm of the residual stream, and can't be peeled",
    ),
    "blocks that don't return hidden states": (r"can't be audited: its blocks don't return hidden states",),
}
"""Every sentence that a family of transformers' registry is refused by, under its row of the table in the docs."""

Opener = Callable[..., Network]


def losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """nats, [sequences, positions - 1]."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


def assert_the_same_losses(folder: Path, network: Network) -> None:
    """Each token's loss is that of the model as transformers reads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = losses(model(input_ids=network.tokens, use_cache=False).logits, network.tokens)
    ours = losses(Unembedding.of(network.decoder).logits(network.states[-1]), network.tokens)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert float(theirs.std()) > 1e-3


def outcome(family: str, folder: Path) -> str:
    """`audited`, when the network's losses are transformers' and the reference `direct` is the network; else why not.

    Of a model of more than text the text decoder counts.
    """
    text, refusal = early_refusal(family)
    if refusal is not None:
        return refusal
    folder = models.save(tiny_model(text), folder)
    try:
        with open_checkpoint(folder, admit=admit):
            pass
    except UnsupportedCheckpoint as error:
        return str(error).split(f"{folder}: ")[-1]
    with opened(folder, dtype=torch.float32) as network:
        assert_the_same_losses(folder, network)
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(3, 64, 4000).astype(np.uint16))
    report = peelaudit.audit(
        folder, folder / "tokens.npy", tokens=1024, seq_len=16, resamples=100, schedules=("direct",), effort="quick"
    )
    direct = next(schedule for schedule in report.schedules if schedule.name == "direct")
    assert direct.held_out.own.value == pytest.approx(report.network.held_out.trained_loss.value, abs=1e-3)
    return "audited"


@pytest.mark.parametrize("family", [*TRAITS, *MIXTURES])
def test_a_family_is_found_by_its_structure(family: str, tmp_path: Path) -> None:
    folder = models.save(tiny_model(family), tmp_path / "model")
    with open_checkpoint(folder, admit=admit) as checkpoint:
        assert checkpoint.info.context >= 32
    with opened(folder, dtype=torch.float32) as network:
        assert_the_same_losses(folder, network)


def test_a_structure_is_looked_for_once_as_long_as_its_configuration_and_modules_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def look(skeleton: torch.nn.Module) -> object:
        looked.append(repr(skeleton))
        return find_structure(skeleton)

    monkeypatch.setattr(families, "find_structure", look)
    monkeypatch.setattr(families, "_KNOWN", {})
    capped = {"final_logit_softcapping": 30.0}
    cases = (("llama", {}), ("gemma3_text", {}), ("gemma3_text", capped), ("llama", {"num_hidden_layers": 3}))
    for count, (name, changes) in enumerate(cases, 1):
        folder = models.save(models.model(name, **changes), tmp_path / f"model-{count}")
        found = []
        for _ in range(2):
            with open_checkpoint(folder, admit=admit) as checkpoint:
                found.append(family_of(checkpoint))
        assert len(looked) == count
        assert found[0] == found[1]
        assert found[0].tail.softcap == changes.get("final_logit_softcapping")
        assert len(found[0].writers) == changes.get("num_hidden_layers", 2)


def test_an_opt_without_a_final_norm_is_audited(tmp_path: Path) -> None:
    folder = models.save(models.model("opt", _remove_final_layer_norm=True), tmp_path / "model")
    with open_checkpoint(folder, admit=admit), opened(folder, dtype=torch.float32) as network:
        assert_the_same_losses(folder, network)


@pytest.mark.parametrize("family", IN_FLOAT64)
def test_a_blocks_output_follows_from_what_its_writers_saw(family: str, network: Opener) -> None:
    """Exactly where no norm stands behind a writer: multiples of products are counted."""
    made = network(tiny_model(family))
    block, hidden = made.decoder.block(1), made.states[0][:4]
    writers = trainable_writers(block, hidden[:1])
    seen = observe(block, hidden, writers)
    change = 1e-3 * torch.randn(seen.features.shape[1], hidden.shape[-1], dtype=hidden.dtype)
    moved = block.changed(split_change(block, writers, change))(hidden).reshape(seen.output.shape) - seen.output
    if all(block.norms[index] is None for index in writers):
        torch.testing.assert_close(seen.features @ change, moved, rtol=1e-4, atol=1e-7)
    else:
        assert family in NORMED


def test_a_gemma_4_whose_blocks_are_given_the_tokens_is_refused() -> None:
    values = {**tiny_values("gemma4_text"), "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64}
    skeleton = build_skeleton(transformers.CONFIG_MAPPING["gemma4_text"](**values), "config.json")
    with pytest.raises(UnsupportedCheckpoint, match="3 linear maps of a block write"):
        admit("config.json", "gemma4_text", values, skeleton)


@pytest.mark.parametrize("family", IN_FLOAT64)
def test_a_block_adds_what_its_halves_write(family: str, network: Opener) -> None:
    made = network(tiny_model(family))
    block, hidden = made.decoder.block(1), made.states[0][:4]
    written: list[torch.Tensor] = []
    ends = [writer.module if norm is None else norm for writer, norm in zip(block.writers, block.norms, strict=True)]
    taps = [
        (end, lambda _, product, factor=factor: written.append(factor * product))
        for end, factor in zip(ends, block.factors, strict=True)
    ]
    with tapped(taps):
        output = block(hidden)
    torch.testing.assert_close(
        hidden + written[0].view_as(hidden) + written[1].view_as(hidden), output, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "changes", [{"model_type": "gemma3_text", "use_bidirectional_attention": True}, {"is_causal": False}]
)
def test_attention_to_both_sides_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="looks at later tokens"):
        admit("config.json", "llama", changes)


def documented(family: str) -> str:
    """What docs/checkpoints.md says of a family: `audited`, or what it is refused for."""
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").split("## Families")[1].split("## ")[0]
    audited, table = page.split("| refused for")
    if f"`{family}`" in audited:
        return "audited"
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return next((row[0] for row in rows if family in re.split(r"[,;] ", row[-1])), "nothing")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_audited_or_refused_in_a_sentence(family: str, tmp_path: Path) -> None:
    found, told = outcome(family, tmp_path / "model"), documented(family)
    assert (told == "audited") == (found == "audited"), found
    assert found == "audited" or any(re.search(f"{reason}$", found) for reason in REASONS[told]), found
