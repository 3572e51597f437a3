"""Two checkpoints compared, by the library: sums, symmetry, what is refused, how many sequences are taken."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peelaudit.auditing.differing import difference
from peelaudit.errors import ConfigError
from peelaudit.records.difference import ChangeKind, Difference, PartKind
from peelaudit.records.json import dump, load
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.places import FIXTURES, NANOGPT

TEXT = NANOGPT / "calibration.txt"
TABLE = NANOGPT / "meta.pkl"


def compared(base: Path, new: Path, *, passes: float = 4.0, tokens: int = 1024, **changes: object) -> Difference:
    config = AuditConfig(
        checkpoint=base, data=(TEXT,), tokens=tokens, seq_len=32, resamples=100, tokenizer=TABLE, **changes
    )  # type: ignore[arg-type]
    return difference(config, new, passes=passes)


def saved(folder: Path, changes: dict[int, float], *, layers: int = 3) -> Path:
    """A random network; `changes` are by how much noise each block differs from the plain one."""
    made = models.model("llama", vocab_size=128, num_hidden_layers=layers, tie_word_embeddings=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, noise in changes.items():
            for weight in made.model.layers[layer - 1].parameters():
                weight += noise * torch.randn(weight.shape, generator=generator)
    return models.save(made, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    saved(root / "base", {})
    saved(root / "new", {1: 0.01, 2: 0.1, 3: 0.01})
    saved(root / "one", {2: 0.1})
    return root


def values(found: Difference) -> list[float]:
    swapped = found.swapped
    sums = [found.whole, found.kl, swapped.whole, swapped.singles, swapped.left_over]
    rows = [one for row in found.rows for one in (row.in_base, row.kl, row.in_new, row.so_far) if one is not None]
    return [end for one in (*sums, *rows) for end in (one.value, one.low, one.high)]


def test_a_checkpoint_against_itself_is_nothing_to_the_last_digit(folder: Path) -> None:
    found = compared(folder / "base", folder / "base")
    assert set(values(found)) == {0.0}
    assert all(row.same for row in found.rows)
    assert found.base_loss == found.new_loss
    assert (found.tensors, found.findings, found.named, found.changed) == ((), (), (), ())
    assert found.headline.startswith("the same network")


def test_a_parent_that_is_set_for_audits_is_none_of_it(folder: Path) -> None:
    found = compared(folder / "base", folder / "base", parent="nowhere")
    assert "nowhere" not in dict(found.settings).values()


def test_the_same_weights_in_another_format_are_the_same(folder: Path, tmp_path: Path) -> None:
    made = models.model("llama", vocab_size=128, num_hidden_layers=3, tie_word_embeddings=True)
    torch.save(made.state_dict(), tmp_path / "pytorch_model.bin")
    shutil.copy(folder / "base" / "config.json", tmp_path)
    assert set(values(compared(folder / "base", tmp_path))) == {0.0}


def test_single_swaps_and_what_is_left_over_are_the_whole(folder: Path) -> None:
    found = compared(folder / "base", folder / "new")
    swapped = found.swapped
    singles = sum(row.in_base.value for row in found.rows)
    assert singles == pytest.approx(swapped.singles.value, abs=1e-12)
    assert singles + swapped.left_over.value == pytest.approx(swapped.whole.value, abs=1e-12)
    assert found.rows[-1].so_far == swapped.whole
    assert swapped.sequences == swapped.of
    assert swapped.whole.value == pytest.approx(found.new_loss.value - found.base_loss.value, abs=1e-9)


def test_the_part_that_is_changed_most_is_named_by_what_it_does_and_by_its_weights(folder: Path) -> None:
    found = compared(folder / "base", folder / "new")
    assert [row.name for row in found.rows] == ["embedding and head", "block 1", "block 2", "block 3", "final norm"]
    assert found.named == (2,)
    assert found.changed == (2,)
    assert "block 2 alone costs" in found.headline


def test_one_part_that_differs_is_all_of_it(folder: Path) -> None:
    found = compared(folder / "base", folder / "one")
    assert [row.same for row in found.rows] == [True, True, False, True, True]
    row = found.rows[2]
    assert row.in_base == row.in_new == found.swapped.whole
    assert found.swapped.left_over.value == 0
    assert found.named == (2,)
    assert dict(found.passes)["swap the blocks"] == pytest.approx(
        (1 + 2 / 3) * (1 - head_share(found)), rel=0.02
    )  # BASE, and of NEW two blocks


def head_share(found: Difference) -> float:
    width, mlp = found.base.width, found.base.mlp_width
    head = found.base.vocabulary * width
    block = 2 * width * width + 2 * width * width // 2 + 3 * width * mlp
    return head / (head + found.base.layers * block)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100))
def test_the_other_way_round_every_sign_is(folder: Path, seed: int) -> None:
    """Beyond rounding: what one computes on all sequences the other does on some."""
    there = compared(folder / "base", folder / "new", dtype="float64", seed=seed, bos="never")
    back = compared(folder / "new", folder / "base", dtype="float64", seed=seed, bos="never")
    assert there.whole.value == pytest.approx(-back.whole.value, abs=1e-9)
    for one, other in zip(there.rows, back.rows, strict=True):
        assert one.in_base.value == pytest.approx(-other.in_new.value, abs=1e-9)
        assert one.in_new.value == pytest.approx(-other.in_base.value, abs=1e-9)
        assert one.weights == pytest.approx(other.weights)
        assert one.kl.value >= 0


def test_a_deep_network_is_swapped_on_some_sequences_within_the_budget(tmp_path: Path) -> None:
    layers = 18
    base = saved(tmp_path / "base", {}, layers=layers)
    new = saved(tmp_path / "new", dict.fromkeys(range(1, layers + 1), 0.01) | {7: 0.1}, layers=layers)
    found = compared(base, new, tokens=4096)
    swapped = found.swapped
    assert 4 < swapped.sequences < swapped.of
    spent = dict(found.passes)
    assert 6 < spent["swap the blocks"] + spent["read the losses"] <= 8.5
    assert sum(row.in_base.value for row in found.rows) == pytest.approx(swapped.singles.value)
    assert [found.rows[place].layer for place in found.named] == [7]
    assert sum(row.so_far is not None for row in found.rows) == 8
    every = compared(base, new, passes=math.inf, tokens=1024)
    assert every.swapped.sequences == every.swapped.of
    assert every.swapped.whole == every.whole


def test_a_redrawn_block_is_named_and_said_to_have_nothing_in_common(tmp_path: Path) -> None:
    checkpoint = torch.load(NANOGPT / "ckpt.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, weight in checkpoint["model"].items():
        if name.startswith("transformer.h.2.") and weight.ndim == 2:
            checkpoint["model"][name] = weight.std() * torch.randn(weight.shape, generator=generator)
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    found = compared(NANOGPT / "ckpt.pt", tmp_path / "ckpt.pt")
    assert [found.rows[place].name for place in found.named] == ["block 3"]
    assert {change.kind for change in found.tensors} == {ChangeKind.UNRELATED}
    assert any("of block 3: nothing in common with BASE's" in words for words in found.findings)


def test_two_healthy_steps_of_a_run_have_no_part_that_stands_out() -> None:
    found = compared(NANOGPT / "ckpt-000600.pt", NANOGPT / "ckpt-001200.pt", tokens=2048)
    assert found.whole.high < 0
    assert found.named == found.changed == ()
    assert "no part stands out" in found.headline
    assert (found.findings, found.tensors[0].kind) == ((), ChangeKind.CHANGED)


def test_a_head_alone_needs_no_block(tmp_path: Path, folder: Path) -> None:
    made = models.model("llama", vocab_size=128, num_hidden_layers=3, tie_word_embeddings=False)
    plain = models.save(made, tmp_path / "plain")
    with torch.no_grad():
        made.lm_head.weight += 0.1 * torch.randn_like(made.lm_head.weight)
        made.model.norm.weight *= 1.5
    found = compared(plain, models.save(made, tmp_path / "head"))
    assert [row.part for row in found.rows if not row.same] == [PartKind.NORM, PartKind.HEAD]
    assert [change.kind for change in found.tensors] == [ChangeKind.SCALED, ChangeKind.CHANGED]
    assert found.rows[-1].so_far == found.swapped.whole


@pytest.mark.filterwarnings("ignore")  # peft's
def test_an_adapter_is_merged_into_new_alone(tmp_path: Path, folder: Path) -> None:
    peft = pytest.importorskip("peft")
    made = models.model("llama", vocab_size=128, num_hidden_layers=3, tie_word_embeddings=True)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], layers_to_transform=[1])
    wrapped = peft.get_peft_model(made, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.ones_like(parameter))
    wrapped.save_pretrained(tmp_path)
    found = compared(folder / "base", folder / "base", adapter=str(tmp_path))
    assert [row.name for row in found.rows if not row.same] == ["block 2"]
    assert [change.within for change in found.tensors] == ["self_attn.q_proj.weight"]


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "opt", "mixtral", "deepseek_v3"])
def test_every_structure_is_swapped(family: str, tmp_path: Path) -> None:
    made = models.model(family, vocab_size=128)
    base = models.save(made, tmp_path / "base")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found = compared(base, models.save(made, tmp_path / "new"), tokens=512)
    assert not any(row.same for row in found.rows)
    assert found.rows[-1].so_far == found.swapped.whole
    assert found.swapped.whole.value == pytest.approx(found.new_loss.value - found.base_loss.value, abs=1e-6)


def test_another_architecture_and_another_vocabulary_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="not of one architecture: family"):
        compared(NANOGPT / "ckpt.pt", folder / "base")
    other = tmp_path / "llama"
    shutil.copytree(FIXTURES / "llama", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = AuditConfig(checkpoint=FIXTURES / "llama", tokens=1024, seq_len=32, resamples=100)
    with pytest.raises(ConfigError, match="another vocabulary: its tokenizer makes other tokens"):
        difference(config, other)
    (other / "tokenizer.json").unlink()
    found = difference(config, other)
    assert any("has no tokenizer that can be read" in words for words in found.warnings)
    assert found.headline.startswith("the same network")


def test_a_tokenizer_that_puts_something_before_a_text_is_said_and_bases_is_taken(tmp_path: Path) -> None:
    other = tmp_path / "llama"
    shutil.copytree(FIXTURES / "llama", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "!", "type_id": 0}})
    tokenizer["post_processor"]["special_tokens"] = {"!": {"id": "!", "ids": [1], "tokens": ["!"]}}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    found = difference(AuditConfig(checkpoint=FIXTURES / "llama", tokens=1024, seq_len=32, resamples=100), other)
    assert any("a tokenizer that puts something else before a text" in words for words in found.warnings)


def test_low_bit_experts_are_swapped_as_they_are(tmp_path: Path) -> None:
    """No reference is fitted that would have to be held to their bits."""
    made = models.model("mixtral", vocab_size=128)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "experts" in name:
                weight.copy_(weight.sign() * weight.abs().mean())
    path = models.save(made, tmp_path)
    assert compared(path, path, tokens=512).headline.startswith("the same network")


def test_it_comes_back_from_json(folder: Path) -> None:
    found = compared(folder / "base", folder / "new")
    assert load(dump(found, Difference), Difference) == found
