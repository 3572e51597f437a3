"""Checkpoint files that are damaged or hostile, through the real command: one sentence, exit 3, and nothing else.

Each test is named by the row of its kind of input, as all in this folder: what the modules' own tests hold of the
error, these hold of the command. Memory is bounded by the system while it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peelaudit.network.weights import check_weights
from tests.checkpoints import models
from tests.checkpoints.gguf_bytes import ARCHITECTURE, aligned, array, header, tensor, text, value
from tests.checkpoints.support import (
    GOOD,
    Change,
    build,
    colliding_integers,
    entry,
    program,
    replacing,
    rewrite,
    shared_tuples,
    without,
)
from tests.hostile.support import MARKS, Make, audit, content, refused, tokens

pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")]


def saved(change: Callable[[Path], object]) -> Make:
    """A sound nanoGPT file, then damaged."""

    def make(path: Path) -> None:
        torch.save(models.nanogpt(bias=False), path)
        change(path)

    return make


def holding(thing: object) -> Make:
    """A state dict with something else than a tensor under a tensor's name."""
    return lambda path: torch.save({"model": {"a.weight": torch.ones(2), "b.weight": thing}}, path)


def sparse(path: Path) -> None:
    holding(torch.sparse_coo_tensor([[2**40]], [1.0], (2**41,), check_invariants=True))(path)


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def legacy_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("sys_info")
        archive.addfile(info)


def resized(size: Callable[[bytes], bytes]) -> Make:
    return saved(lambda path: path.write_bytes(size(path.read_bytes())))


def record(change: Any, method: int = zipfile.ZIP_STORED) -> Make:
    return saved(lambda path: rewrite(path, change, method))


def twice_in_other_case(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(new, data) for new in sorted({name.replace("data.pkl", "DATA.PKL"), name})]


def twice(part: str) -> Change:
    return lambda name, data: [(name, data)] * (2 if name.endswith(part) else 1)


def billion_laughs() -> bytes:
    """Lists of the list before, twice, 60 deep."""
    steps = b"".join(b"]q" + bytes([n + 1]) + b"(" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(60))
    return b"]q\x00" + steps + b"."


def one_entry(path: Path) -> None:
    """The end record of a large directory says that it has one entry."""
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(5000):
            archive.writestr(f"a/{index}", b"")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<2H", raw, len(raw) - 14, 1, 1)
    path.write_bytes(raw)


TORCH: list[tuple[str, Make]] = [
    ("row 1, empty", content(b"")),
    ("row 2, random bytes", content(np.random.default_rng(0).bytes(2000))),
    ("row 2, Git LFS", content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")),
    ("row 2, HTML", content(b"<!DOCTYPE html><html><body>404</body></html>")),
    ("row 3, zeros", content(bytes(4096))),
    ("row 4, truncated", resized(lambda raw: raw[: len(raw) // 2])),
    ("row 5, appended", resized(lambda raw: raw + bytes(1 << 20))),
    ("row 6, Namespace", holding(argparse.Namespace(lr=1))),
    ("row 6, numpy scalar", holding(np.float64(1.5))),
    ("row 6, Module", holding(torch.nn.Linear(2, 2))),
    ("row 7, TorchScript", torchscript),
    ("row 7, legacy tar", legacy_tar),
    ("row 8, no data.pkl", record(without("data.pkl"))),
    ("rows 8 and 90, no storage", record(without("data/1"))),
    ("row 8, no version", record(without("/version"))),
    ("rows 8 and 90, short record", record(replacing("data/0", bytes(12)))),
    ("rows 8 and 90, long record", record(replacing("data/0", bytes(100_000)))),
    ("row 9, deflated bomb", record(replacing("data/0", bytes(64 << 20)), zipfile.ZIP_DEFLATED)),
    ("row 10, bytearray", record(program(b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R."))),
    ("row 11, a tensor of 4 TB in four bytes", holding(torch.zeros(1).expand(1_000_000, 1_000_000))),
    ("row 12, a dictionary in itself", record(program(b"}q\x00X\x01\x00\x00\x00ah\x00s."))),
    ("row 13, lists of the same list", record(program(billion_laughs()))),
    ("row 14, a sparse tensor", sparse),
    ("row 15, 200,000 tensors", lambda path: torch.save(dict.fromkeys(map(str, range(200_000)), torch.ones(1)), path)),
    ("row 16, lists 200,000 deep", record(program(b"]" * 200_000 + b"a" * 199_999 + b"."))),
    ("row 17, two pickles", record(twice("data.pkl"))),
    ("row 18, no byte order", record(replacing("byteorder", b"middle"))),
    ("row 18, the other byte order", record(replacing("byteorder", b"big"))),
    ("row 20, a tensor without data", holding(torch.empty(2, device="meta"))),
    ("row 20, a name that is a number", lambda path: torch.save({7: torch.ones(2)}, path)),
    *(
        (f"row 21, {body!r}", record(program(body)))
        for body in (
            b"}\xff.",
            b".",
            b"q",
            b"0",
            b"(.",
            b"Q",
            b"h\x07.",
            b"X\xff\xff\xff\x7f.",
            b"}X\x01\x00\x00\x00aNs",
        )
    ),
    ("row 69, names that differ in case", record(twice_in_other_case)),
    ("row 70, two directories", resized(lambda raw: raw[:-22] + raw)),
    ("row 71, shared tuples", record(program(shared_tuples()))),
    ("row 72, nested tuples", record(program(b"})" + b"\x85" * 50_000 + b"Ns."))),
    ("row 73, colliding integers", record(program(colliding_integers()))),
    ("row 85, one entry of many", saved(one_entry)),
    ("a memo entry far beyond the others", record(program(b"Nr\xff\xff\xff\x7f."))),
]


def many_tensors(path: Path) -> None:
    tensors = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(700_000))
    path.write_bytes(build(b"{" + tensors + b"}", b""))


def empty_lists(path: Path) -> None:
    path.write_bytes(build(b'{"a":[' + b",".join([b"[[]]"] * 3_000_000) + b"]}"))


SAFETENSORS: list[tuple[str, Make]] = [
    ("row 22, empty", content(b"")),
    ("row 22, 7 bytes", content(bytes(7))),
    ("row 22, header of length 0", content(bytes(8))),
    ("row 22, header of 2^63", content(build(GOOD, length=2**63))),
    ("row 22, header above 100 MB", content(build(GOOD, length=(100 << 20) + 1))),
    ("row 22, header above the file", content(build(GOOD, length=1 << 20))),
    ("row 23, not UTF-8", content(build(b'{"a\xff": 1}'))),
    ("row 23, not JSON", content(build(b'{"a": '))),
    ("row 23, deep JSON", content(build(b'{"a":' * 100_000))),
    ("row 24, overlap", content(build({"a": entry([2, 3], 0, 24), "b": entry([2], 16, 24)}))),
    ("row 24, hole", content(build({"a": entry([2], 0, 8), "b": entry([2], 16, 24)}))),
    ("row 24, trailing bytes", content(build(GOOD, bytes(25)))),
    ("row 24, truncated", content(build(GOOD, bytes(20)))),
    ("row 25, shape mismatch", content(build({"a": entry([2, 2], 0, 24)}))),
    ("row 25, overflow", content(build({"a": entry([2**33, 2**33], 0, 24)}))),
    ("row 25, negative", content(build({"a": entry([-2, -3], 0, 24)}))),
    ("row 25, fractional", content(build({"a": entry([2.0, 3], 0, 24)}))),
    ("row 25, unknown dtype", content(build({"a": entry([2, 3], 0, 24, "F31")}))),
    ("row 26, a name twice", content(build(b'{"a": %s, "a": %s}' % ((json.dumps(GOOD["a"]).encode(),) * 2)))),
    ("row 27, white space first", content(build(b" " + json.dumps(GOOD).encode()))),
    ("row 27, 65,000 dimensions", content(build({"a": entry([1] * 65_000, 0, 4)}))),
    ("row 27, none of 2^62", content(build({"a": entry([0, 2**62], 0, 0)}))),
    ("row 28, 700,000 tensors", many_tensors),
    ("row 32, a name that isn't one", content(build({"../../x\n\x1b[31m::error::" + "y" * 5000: entry([1], 0, 24)}))),
    ("row 76, lists of empty lists", empty_lists),
]


def empty_texts(path: Path) -> None:
    """Of eight zeros each, which take no room on the disk."""
    path.write_bytes(header(array(8, 15_900_000)))
    os.truncate(path, path.stat().st_size + 8 * 15_900_000)


GGUF: list[tuple[str, Make]] = [
    *((f"row 33, an array of {length} bytes", content(header(array(0, length)))) for length in (10**8, 2**40, 2**63)),
    ("row 34, 4 bytes", content(b"GGUF")),
    ("row 34, truncated", content(struct.pack("<4sIQQ", b"GGUF", 3, 4, 20) + bytes(10))),
    ("row 35, 2^63 values", content(header(counts=(0, 2**63)))),
    ("row 35, 2^63 tensors", content(header(counts=(2**63, 0)))),
    ("row 36, a text of 2^63 bytes", content(header(value(b"x", 8, text(b"", 2**63))))),
    ("row 36, a text beyond the end", content(header(value(b"x", 8, text(b"abc", 100_000))))),
    ("row 37, arrays in arrays", content(header(array(9, 1, struct.pack("<IQ", 9, 1) * 200_000)))),
    *(
        (f"row 38, an alignment of {number}", content(header(ARCHITECTURE, aligned(number))))
        for number in (0, 1, 3, 2**31)
    ),
    ("row 38, not aligned", content(header(ARCHITECTURE, tensors=(tensor(offset=5),)) + bytes(200))),
    (
        "row 39, overlap",
        content(header(ARCHITECTURE, tensors=(tensor(dims=(64,)), tensor(b"b", offset=128))) + bytes(500)),
    ),
    ("row 39, no architecture", content(header(tensors=(tensor(),)) + bytes(200))),
    ("row 39, not UTF-8", content(header(value(b"x", 8, text(b"\xff\xfe"))))),
    ("row 39, dimensions that overflow", content(header(ARCHITECTURE, tensors=(tensor(dims=(2**40, 2**40)),)))),
    ("row 39, an offset beyond", content(header(ARCHITECTURE, tensors=(tensor(offset=2**63 - 2**6),)) + bytes(200))),
    ("row 39, an unknown type", content(header(ARCHITECTURE, tensors=(tensor(kind=999),)) + bytes(200))),
    ("row 39, half a group", content(header(ARCHITECTURE, tensors=(tensor(dims=(33,), kind=2),)) + bytes(200))),
    ("row 86, 15.9 million empty texts", empty_texts),
]
FILES = [
    pytest.param(suffix, make, id=row)
    for suffix, rows in ((".pt", TORCH), (".safetensors", SAFETENSORS), (".gguf", GGUF))
    for row, make in rows
]


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize(("suffix", "make"), FILES)
def test_files(command: str, suffix: str, make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"model{suffix}"
    make(path)
    assert path.name in refused([command, str(path)], tmp_path, capfd)


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.gguf"])
def test_row_30_a_pipe(command: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / name)
    assert "found a pipe" in refused([command, str(tmp_path / name)], tmp_path, capfd)


def test_row_19_a_flipped_bit_in_a_storage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt"
    torch.save(models.nanogpt(bias=False), path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"data/0") + 2000] ^= 1
    path.write_bytes(raw)
    assert "doesn't have its checksum" in refused(audit(path, tokens(tmp_path)), tmp_path, capfd)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_row_29_a_file_that_is_cut_off_while_it_is_open(
    name: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "model.pt":
        torch.save(models.model("llama").state_dict(), llama / name)
        (llama / "model.safetensors").unlink()

    def cut(*arguments: Any, **options: Any) -> Any:
        os.truncate(llama / name, 3000)
        return check_weights(*arguments, **options)

    monkeypatch.setattr("peelaudit.auditing.prepare.check_weights", cut)
    assert "was changed while it was being read" in refused(audit(llama / name, tokens(tmp_path)), tmp_path, capfd)
