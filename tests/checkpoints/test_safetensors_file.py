"""Damaged and hostile safetensors headers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, UnreadableCheckpoint
from tests.checkpoints.support import GOOD, build, entry


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bytes(7), "too few"),
        (bytes(8), "header's length"),
        (build(GOOD, length=2**63), "header's length"),
        (build(GOOD, length=1 << 20), "header's length"),
        (build(b"{" + b" " * (17 << 20) + b"}"), "too long"),
        (build(b'{"a\xff": 1}'), "isn't UTF-8"),
        (build(b'{"a": '), "isn't valid JSON"),
        (build(b'{"a":' * 100_000), "nested too deeply"),
        (build(b" " + json.dumps(GOOD).encode()), "begin with a brace"),
        (build(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
        (build({"a": 1}), "isn't described by"),
        (build({"a": entry([2, 3], 0, 24), "b": entry([2], 16, 24)}), "overlaps"),
        (build({"a": entry([2], 0, 8), "b": entry([2], 16, 24)}), "leaves a hole"),
        (build(GOOD, bytes(25)), "1 bytes after"),
        (build(GOOD, bytes(20)), "is truncated"),
        (build({"a": entry([2, 2], 0, 24)}), "disagrees"),
        (build({"a": entry([2**33, 2**33], 0, 24)}), "disagrees"),
        (build({"a": entry([-2, -3], 0, 24)}), "impossible shape"),
        (build({"a": entry([2.0, 3], 0, 24)}), "impossible shape"),
        (build({"a": entry([True, 6], 0, 24)}), "impossible shape"),
        (build({"a": entry([1] * 65_000, 0, 4)}), "impossible shape"),
        (build({"a": entry([0, 2**62], 0, 0)}), "impossible shape"),
        (build({"a": entry([2, 3], 24, 0)}), "disagrees"),
        (build({"a": entry([2, 3], -24, 0)}), "disagrees"),
        (build({"a": entry([2, 3], 0, 24, "F31")}), "unknown dtype 'F31'"),
        (build({"a": entry([2, 3], 0, 24, ["F32"])}), "unknown dtype"),
        (build({str(n): entry([0], 0, 0) for n in range(110_000)}, b""), "more than any model has"),
    ],
)
def test_headers_that_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(MalformedCheckpoint, match=rf"model\.safetensors'.*{message}") as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 400


def test_a_name_with_escape_codes_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(build({"../../x\n\x1b[31m" + "y" * 5000: entry([1], 0, 24)}))
    with pytest.raises(MalformedCheckpoint) as caught:
        open_checkpoint(path)
    assert r"../../x\n\x1b[31myyy" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    for name in ("model.safetensors", "model.pt", "model.gguf"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UnreadableCheckpoint, match="a pipe"):
            open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["gone", "gone.pt", "gone.safetensors", "gone.gguf", "nul\0.pt", "x" * 5000 + ".pt"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"no such file|can't be opened"):
        open_checkpoint(tmp_path / name)


def test_a_directory_named_like_a_file_and_an_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UnreadableCheckpoint, match="has none of"):
        open_checkpoint(tmp_path / "model.pt")
    with pytest.raises(UnreadableCheckpoint, match="ends in one of"):
        open_checkpoint(tmp_path / "notes.txt")


def test_a_file_that_shrinks_while_it_is_open(tmp_path: Path) -> None:
    from tests.checkpoints.models import model, save

    directory = save(model("llama"), tmp_path)
    with open_checkpoint(directory) as checkpoint:
        os.truncate(directory / "model.safetensors", 3000)
        with pytest.raises(CheckpointError, match="was changed while it was being read"):
            checkpoint.check_weights()
