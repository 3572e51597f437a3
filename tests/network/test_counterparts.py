"""Two checkpoints side by side: what is of one architecture, which tensors differ, what is computed otherwise."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
import transformers

from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.errors import ConfigError
from peelaudit.network.counterparts import (
    Place,
    changed_settings,
    check_alike,
    compare_tensors,
    otherwise,
    places,
)
from peelaudit.network.decoder import Decoder
from peelaudit.records.difference import ChangeKind, PartKind
from tests.checkpoints import models

Model = transformers.PreTrainedModel


@contextmanager
def both(folder: Path, base: Model, new: Model) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    with ExitStack() as stack:
        paths = [models.save(made, folder / name) for made, name in ((base, "base"), (new, "new"))]
        one, other = (stack.enter_context(open_checkpoint(path)) for path in paths)
        yield one, other


def decoder(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint, seq_len=12, device=torch.device("cpu"), dtype=torch.float64)


TOKENS = torch.arange(3, 15)[None]


def test_another_architecture_is_refused_and_what_differs_is_said(tmp_path: Path) -> None:
    with both(tmp_path, models.model("llama"), models.model("llama", num_hidden_layers=3)) as (base, new):
        check_alike(base, base)
        with pytest.raises(ConfigError, match=r"not of one architecture: layers 2 and 3$"):
            check_alike(base, new)


def test_a_family_by_another_name_is_the_same_where_all_tensors_are(tmp_path: Path) -> None:
    made, renamed = models.model("llama"), models.model("mistral", tie_word_embeddings=False, sliding_window=None)
    renamed.load_state_dict(made.state_dict())
    with both(tmp_path, made, renamed) as (base, new):
        check_alike(base, new)
        assert compare_tensors(base, new).changes == ()
        assert otherwise(decoder(base), decoder(new), TOKENS) == frozenset()
    with (
        both(tmp_path / "other", made, models.model("olmo2")) as (base, new),
        pytest.raises(ConfigError, match="not of one architecture: family llama and olmo2"),
    ):
        check_alike(base, new)


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    made = models.model("llama")
    with both(tmp_path, made, made) as (base, new):
        found = compare_tensors(base, new)
        assert (found.changes, found.same, found.squares) == ((), len(base.names()), {})
        assert changed_settings(base.config, new.config) == ()


def test_a_tensor_is_named_with_its_block_and_its_size(tmp_path: Path) -> None:
    made = models.model("llama")
    other = copy.deepcopy(made)
    with torch.no_grad():
        other.model.layers[1].input_layernorm.weight += 1
        other.model.norm.weight += 1
    with both(tmp_path, made, other) as (base, new):
        first, last = compare_tensors(base, new).changes
        found = compare_tensors(base, new)
    assert (first.layer, first.within, first.kind) == (2, "input_layernorm.weight", ChangeKind.SHIFTED)
    assert first.constant == pytest.approx(1)
    assert (last.layer, last.within) == (None, "model.norm.weight")
    assert set(found.squares) == {2, 3}
    assert found.size([3]) == pytest.approx(last.size)
    assert 0 < found.size([2]) < first.size
    assert found.size([1]) == 0


@pytest.mark.parametrize("kind", [ChangeKind.UNTIED, ChangeKind.TIED])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_tied_head_and_one_of_its_own(tmp_path: Path, kind: ChangeKind, scale: float) -> None:
    tied = models.model("llama", tie_word_embeddings=True)
    loose = models.model("llama", tie_word_embeddings=False)
    loose.load_state_dict(tied.state_dict())
    with torch.no_grad():
        loose.lm_head.weight *= scale
    pair = (tied, loose) if kind is ChangeKind.UNTIED else (loose, tied)
    with both(tmp_path, *pair) as (base, new):
        found = compare_tensors(base, new)
        parts = [place.part for place in places(base, new)]
    (change,) = found.changes
    assert (change.name, change.kind) == ("lm_head.weight", kind)
    assert set(found.squares) == (set() if scale == 1 else {4})
    assert (parts[0], parts[-1]) == (PartKind.EMBEDDING, PartKind.HEAD)


def test_tied_in_both_is_one_part(tmp_path: Path) -> None:
    made = models.model("llama", tie_word_embeddings=True)
    with both(tmp_path, made, made) as (base, new):
        assert places(base, new) == (
            Place(PartKind.TIED, None, frozenset({0, 4})),
            Place(PartKind.BLOCK, 1, frozenset({1})),
            Place(PartKind.BLOCK, 2, frozenset({2})),
            Place(PartKind.NORM, None, frozenset({3})),
        )


def test_a_bias_that_one_alone_has(tmp_path: Path) -> None:
    made, biased = models.model("llama"), models.model("llama", attention_bias=True)
    biased.load_state_dict(made.state_dict(), strict=False)
    for there, kind in ((True, ChangeKind.ADDED), (False, ChangeKind.MISSING)):
        with both(tmp_path / str(there), *((made, biased) if there else (biased, made))) as (base, new):
            found = compare_tensors(base, new)
            assert {change.kind for change in found.changes} == {kind}
            assert found.size([1]) == pytest.approx(math.sqrt(2) * found.size([1]) / math.sqrt(2))
            assert otherwise(decoder(base), decoder(new), TOKENS) == {1, 2}


def test_another_rope_base_is_computed_otherwise_with_the_same_weights(tmp_path: Path) -> None:
    base_model = models.model("llama", rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    other = models.model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    other.load_state_dict(base_model.state_dict())
    with both(tmp_path, base_model, other) as (base, new):
        assert compare_tensors(base, new).changes == ()
        (change,) = changed_settings(base.config, new.config)
        assert (change.key, change.base, change.new) == ("rope_parameters.rope_theta", "10000", "500000")
        assert otherwise(decoder(base), decoder(new), TOKENS) == {1, 2}


def test_a_key_without_effect_is_told_by_what_is_computed(tmp_path: Path) -> None:
    made = models.model("llama")
    other = copy.deepcopy(made)
    other.config.max_position_embeddings = 64
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight *= 2
    with both(tmp_path, made, other) as (base, new):
        assert [change.key for change in changed_settings(base.config, new.config)] == ["max_position_embeddings"]
        assert otherwise(decoder(base), decoder(new), TOKENS) == frozenset()


def test_another_epsilon_is_computed_otherwise_in_blocks_and_norm(tmp_path: Path) -> None:
    made, other = models.model("llama"), models.model("llama", rms_norm_eps=1e-2)
    with both(tmp_path, made, other) as (base, new):
        assert otherwise(decoder(base), decoder(new), TOKENS) == {1, 2, 3}


def test_an_epsilon_kept_as_float32_is_the_same(tmp_path: Path) -> None:
    made = models.model("llama", rms_norm_eps=1e-5)
    other = models.model("llama", rms_norm_eps=float(torch.tensor(1e-5)))
    with both(tmp_path, made, other) as (base, new):
        assert changed_settings(base.config, new.config) == ()


def test_another_scale_of_the_logits_is_the_heads(tmp_path: Path) -> None:
    made, other = (models.model("gemma3_text", final_logit_softcapping=cap) for cap in (None, 30.0))
    with both(tmp_path, made, other) as (base, new):
        assert otherwise(decoder(base), decoder(new), TOKENS) == {4}
