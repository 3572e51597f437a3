"""The low-bit fixtures: on their grids, trained on them, and the latent weights behind the ternary ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedModel as Model

import peelaudit
from fixtures import grammar, low_bit
from peelaudit.network.lowbit.constraints import Binary, Constraint, Ternary
from peelaudit.network.lowbit.detection import find_grid
from peelaudit.records import Grid, GridKind, ScaleLayout
from tests.losses import mean_loss
from tests.places import FIXTURES

TERNARY, LATENT, BINARY = (FIXTURES / name for name in ("llama-ternary", "llama-ternary-latent", "llama-binary"))
MATRICES = 4 * 7


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def is_constrained(name: str) -> bool:
    return name.endswith("_proj.weight")


@pytest.mark.parametrize(
    ("directory", "kind", "layout"),
    [(TERNARY, GridKind.TERNARY, ScaleLayout.TENSOR), (BINARY, GridKind.BINARY, ScaleLayout.ROW)],
    ids=["ternary", "binary"],
)
def test_the_matrices_of_the_blocks_are_found_on_their_grid_and_no_other(
    directory: Path, kind: GridKind, layout: ScaleLayout
) -> None:
    grids = {name: find_grid(weight) for name, weight in weights(directory).items()}
    found = {name: (grid.kind, grid.layout) for name, grid in grids.items() if grid is not None}
    assert len(found) == MATRICES
    assert all(is_constrained(name) for name in found)
    assert set(found.values()) == {(kind, layout)}


def zeros(grid: Grid | None) -> float:
    assert grid is not None
    return grid.zero_fraction


def test_the_ternary_one_uses_all_three_values() -> None:
    shares = [zeros(find_grid(weight)) for name, weight in weights(TERNARY).items() if is_constrained(name)]
    assert min(shares) > 0.1
    assert max(shares) < 0.6


def test_the_latent_weights_round_to_the_ternary_ones_bit_for_bit() -> None:
    latent, dense = weights(LATENT), weights(TERNARY)
    assert latent.keys() == dense.keys()
    for name, weight in latent.items():
        assert find_grid(weight) is None, name
        assert torch.equal(Ternary().quantise(weight) if is_constrained(name) else weight, dense[name]), name


def test_the_latent_weights_are_no_network_of_their_own() -> None:
    """What makes them worth a fixture: read as float weights they predict worse."""
    tokenizer = AutoTokenizer.from_pretrained(LATENT, local_files_only=True)
    documents = (LATENT / "calibration.txt").read_text(encoding="utf-8").split(f"{grammar.SEPARATOR}\n")
    tokens = torch.tensor(tokenizer(tokenizer.eos_token.join(documents))["input_ids"])
    latent, ternary = (
        mean_loss(AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval(), tokens, context=256)
        for path in (LATENT, TERNARY)
    )
    assert latent > ternary + 0.1


def test_latent_weights_are_audited_as_the_network_that_they_stand_for() -> None:
    cheap = {"schedules": ("final",), "readout": "own", "depth_readout": "own", "effort": "quick"}
    small = {"tokens": 2048, "seq_len": 64, "resamples": 100, **cheap}
    ternary = peelaudit.audit(TERNARY, **small)
    latent = peelaudit.audit(LATENT, bits="ternary", **small)
    assert ternary.low_bit == latent.low_bit
    assert ternary.low_bit is not None
    assert [(s.name, s.matrices) for s in ternary.low_bit.sets] == [("ternary per tensor", MATRICES)]
    assert ternary.network == latent.network
    as_it_lies = peelaudit.audit(LATENT, **small).network.held_out.trained_loss
    assert as_it_lies.value > latent.network.held_out.trained_loss.value + 0.1


# ---- How they are trained ----


def llama() -> Model:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=True,
        )
    )  # fmt: skip


def gpt2() -> Model:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0, resid_pdrop=0)
    )


MODELS = [(llama, ("o_proj", "down_proj")), (gpt2, ("attn.c_proj", "mlp.c_fc"))]


def trained(model: Model, constraint: Constraint, projections: tuple[str, ...]) -> Model:
    """Three steps down, so that the weights are no longer those of the start."""
    low_bit.constrain(model, constraint, projections)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    tokens = torch.arange(16)[None] % 7
    for _ in range(3):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("constraint", [Binary(), Ternary()], ids=["binary", "ternary"])
@pytest.mark.parametrize(("make", "projections"), MODELS, ids=["llama", "gpt2"])
def test_what_is_saved_is_what_was_trained(make: object, projections: tuple[str, ...], constraint: Constraint) -> None:
    untrained = make().state_dict()  # type: ignore[operator]
    model = trained(make(), constraint, projections)  # type: ignore[operator]
    dense = low_bit.plain(model, latent=False)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(dense(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=1e-4, atol=1e-5)
    for name, weight in dense.state_dict().items():
        # GPT-2's Conv1D keeps (inputs, outputs).
        grid = find_grid(weight.T if make is gpt2 and weight.ndim == 2 else weight)
        assert (grid is not None) == name.removesuffix(".weight").endswith(projections), name
    latent = low_bit.plain(model, latent=True).state_dict()
    assert latent.keys() == untrained.keys()
    held = [name for name in latent if name.removesuffix(".weight").endswith(projections)]
    assert held
    assert all(not torch.equal(latent[name], untrained[name]) for name in held), "no gradient came through"


def test_a_projection_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="c_proj"):
        low_bit.constrain(llama(), Binary(), ("c_proj",))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_of_the_generator_makes_such_a_model_again(tmp_path: Path) -> None:
    """The bytes are the same on the same machine; elsewhere the loss is near."""
    script = FIXTURES / "make_fixtures.py"
    subprocess.run([sys.executable, script, "--out", tmp_path, "--only", "llama-binary"], check=True)
    tokenizer = AutoTokenizer.from_pretrained(BINARY, local_files_only=True)
    tokens = torch.tensor(tokenizer((BINARY / "calibration.txt").read_text(encoding="utf-8"))["input_ids"])
    again, committed = (
        mean_loss(AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval(), tokens, context=256)
        for path in (tmp_path / "llama-binary", BINARY)
    )
    assert again == pytest.approx(committed, abs=0.1)
