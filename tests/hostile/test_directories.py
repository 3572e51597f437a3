"""Directories of Hugging Face and torch.distributed.checkpoint that lie, through the real command."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peelaudit.calibration.bounded import Limits
from peelaudit.cli import main
from tests.calibration.support import tokenizer_json
from tests.checkpoints.support import colliding_integers, shared_tuples
from tests.hostile.support import MARKS, audit, bounded, edit, refused
from tests.places import NANOGPT

pytestmark = MARKS


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_row_31_a_directory_that_holds_no_checkpoint_and_a_file_that_is_not_there(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path) in refused([command, str(tmp_path)], tmp_path, capfd)
    (tmp_path / "named.pt").mkdir()
    for name in ("named.pt", "gone.pt", "gone.safetensors", "gone"):
        assert name in refused([command, str(tmp_path / name)], tmp_path, capfd)


def test_row_82_an_index_that_names_what_no_file_is_called(
    sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(
        sharded / "model.safetensors.index.json",
        lambda values: values["weight_map"].update({"lm_head.weight": "\ud800.safetensors"}),
    )
    assert "names no file" in refused(["run", str(sharded)], tmp_path, capfd)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/hostname"])
def test_row_40_an_index_that_leaves_its_directory(
    shard: str, sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.safetensors").write_bytes(next(sharded.glob("*-of-*")).read_bytes())
    edit(
        sharded / "model.safetensors.index.json", lambda values: values["weight_map"].update({"lm_head.weight": shard})
    )
    error = refused(["run", str(sharded)], tmp_path, capfd)
    assert "sharded': the index names" in error
    assert "outside of the directory" in error


def test_row_43_a_missing_shard(sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard = sorted(sharded.glob("*-of-*"))[1]
    shard.unlink()
    error = refused(["run", str(sharded)], tmp_path, capfd)
    assert shard.name in error
    assert "no such file" in error


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 3}, {"num_hidden_layers": 10**9}, {"num_attention_heads": 0}], ids=str
)
def test_row_45_a_configuration_of_another_model(
    changes: dict[str, int], llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(llama / "config.json", lambda values: values.update(changes))
    for command in ("run", "inspect"):
        assert "llama" in refused([command, str(llama)], tmp_path, capfd)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_row_81_what_transformers_says_of_a_configuration_is_not_printed(
    key: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rope = {"rope_type": "x\x1b[31m\n::error::pwned", "factor": 2.0, "rope_theta": 10000.0}
    edit(llama / "config.json", lambda values: values.update({key: rope}))
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        for command in ("run", "inspect"):
            assert "config.json" in refused([command, str(llama)], tmp_path, capfd)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert told == []


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("row 75", "{" + ",".join(f'"k{number}": 1' for number in range(60_000)) + ', "k59999": 2}'),
        ("row 76", "[" + ",".join(["[[]]"] * 3_000_000) + "]"),
    ],
)
def test_rows_75_and_76_json_that_takes_long(
    row: str, text: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (llama / "config.json").write_text(text)
    assert {"row 75": "'k59999' occurs twice", "row 76": "values"}[row] in refused(["run", str(llama)], tmp_path, capfd)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_rows_41_and_88_a_link_that_leaves_its_directory(
    name: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (llama / name).rename(tmp_path / f"elsewhere-{name}")
    (llama / name).symlink_to(tmp_path / f"elsewhere-{name}")
    for command in ("run", "inspect"):
        assert "symbolic link" in refused([command, str(llama)], tmp_path, capfd)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"weight_map": ["a"]}', "its weight_map doesn't give a file for every tensor"),
        ('{"weight_map": {"a": 3}}', "its weight_map doesn't give a file for every tensor"),
        ('{"weight_map": {', "isn't valid JSON"),
        ("[]", "expected a JSON object"),
    ],
)
def test_row_42_an_index_that_is_none(
    text: str, why: str, sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    for command in ("run", "inspect"):
        assert why in refused([command, str(sharded)], tmp_path, capfd)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: {**found, "ghost.weight": found["lm_head.weight"]}, "'ghost.weight' isn't in"),
        (lambda found: {name: found[name] for name in found if "0.mlp.up" not in name}, "doesn't list the tensor"),
        (lambda found: dict(zip(found, reversed(found.values()), strict=True)), "isn't in"),
    ],
    ids=["a ghost", "omitted", "swapped"],
)
def test_row_44_an_index_of_other_shards(
    change: Callable[[dict[str, str]], dict[str, str]],
    why: str,
    sharded: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    edit(
        sharded / "model.safetensors.index.json",
        lambda values: values.update(weight_map=change(values["weight_map"])),
    )
    for command in ("run", "inspect"):
        assert why in refused([command, str(sharded)], tmp_path, capfd)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
            "needs code that comes with the checkpoint, which is never run",
        ),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "architectures": ["Model"]}, "only LlamaForCausalLM"),
    ],
    ids=["a family of its own", "Llama's name"],
)
def test_row_48_code_beside_the_weights_is_never_run(
    changes: dict[str, Any], why: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (llama / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(llama / "config.json", lambda values: values.update(changes))
    for command in ("run", "inspect"):
        assert why in refused([command, str(llama)], tmp_path, capfd)


class Opens:
    """What unpickling makes a file of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_row_48_the_pickled_index_of_a_distributed_checkpoint_is_never_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "step").mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Opens(tmp_path / "ran")))
    (folder / "__0_0.distcp").write_bytes(b"")
    for command in ("run", "inspect"):
        assert ".metadata" in refused([command, str(folder)], tmp_path, capfd)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 2, "model_type": "gpt_neo", "attention_types": [[["global"], 300_000_000]]},
        {"model_type": "git", "num_image_with_embedding": 100_000_000},
        {"model_type": "hrm_text", "num_layers_per_stack": 100_000_000},
    ],
    ids=lambda changes: str(changes["model_type"]),
)
def test_row_78_a_configuration_that_builds_lists_without_an_end(
    changes: dict[str, Any], llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(llama / "config.json", lambda values: values.update(architectures=None, **changes))
    for command in ("run", "inspect"):
        assert "llama" in refused([command, str(llama)], tmp_path, capfd)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def with_text(checkpoint: Path, folder: Path) -> list[str]:
    (text := folder / "text.txt").write_text("".join(f"document {n}: {'a' * 60}\n\n" for n in range(400)))
    return audit(checkpoint, str(text))


def test_row_46_a_merge_that_overruns(llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    tokenizer_json(llama, vocab=vocabulary, merges=[["a", "b"]], continuing_subword_prefix="######")
    assert "the tokenizer can't be loaded" in refused(with_text(llama, tmp_path), tmp_path, capfd)


def test_row_77_ten_million_labels(llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They are nothing to an audit: nobody is given them, and the audit is as it is without."""
    tokenizer_json(llama, special=True)
    (llama / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    command, losses = [*with_text(llama, tmp_path), "-q", "-f", "json"], []
    for labels in (2, 10_000_000):
        edit(llama / "config.json", lambda values, labels=labels: values.update(num_labels=labels))
        with bounded():
            assert main(command) == 0
        losses.append(json.loads(capfd.readouterr().out)["held_out"]["trained_loss"])
    assert losses[0] == losses[1]


DOUBLED = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
MILLION = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}] * 1_000_000
TEMPLATE = {
    "type": "TemplateProcessing",
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [1], "tokens": ["<|endoftext|>"]}},
}


def doubled() -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": [DOUBLED] * 40}}


def aborting() -> dict[str, Any]:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}


def a_million() -> dict[str, Any]:
    return {"post_processor": {**TEMPLATE, "single": [*MILLION, {"Sequence": {"id": "A", "type_id": 0}}]}}


def backtracking() -> dict[str, Any]:
    """A pattern that has 2^60 ways not to match the text."""
    pattern = {"Regex": "(a+)+!"}
    return {"pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}}


@pytest.mark.parametrize(
    ("row", "changes", "why"),
    [
        ("row 47", backtracking, "the tokenizer can't encode the calibration text"),
        ("row 80", doubled, "the tokenizer can't encode the calibration text"),
        ("row 80", aborting, "the tokenizer can't be loaded"),
        ("row 80", a_million, "the tokenizer can't be loaded"),
    ],
)
def test_rows_47_and_80_a_tokenizer_without_an_end(
    row: str,
    changes: Callable[[], dict[str, Any]],
    why: str,
    llama: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peelaudit.calibration.encoder.LIMITS", Limits(computing=2, memory=1 << 28))
    path = tokenizer_json(llama, special=True)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes()}))
    assert why in refused(with_text(llama, tmp_path), tmp_path, capfd)


def test_row_81_a_tokenizer_of_its_own_code(llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (llama / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (llama / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')
    assert "must be executed" not in refused(with_text(llama, tmp_path), tmp_path, capfd)


def tables() -> dict[str, bytes]:
    nested = b"})" + b"\x85" * 50_000 + b"Ns."
    return {"71": shared_tuples(), "72": nested, "73": colliding_integers()}


@pytest.mark.parametrize("row", ["71", "72", "73"])
def test_row_74_a_character_table_with_such_keys(row: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(NANOGPT / "ckpt-000000.pt", path := tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x02" + tables()[row])
    assert "meta.pkl" in refused(with_text(path, tmp_path), tmp_path, capfd)
