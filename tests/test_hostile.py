"""Files that are damaged or hostile, through the real command: one sentence, exit 3, and nothing else.

Each test is of a kind of input that a user can meet, named by its row in the project's list of them: what the modules'
own tests hold of the error, these hold of the command. Memory is bounded by the system while it runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import resource
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peelaudit.cli import main
from peelaudit.network.weights import check_weights
from tests.checkpoints import models
from tests.checkpoints.support import (
    GOOD,
    build,
    colliding_integers,
    entry,
    program,
    replacing,
    rewrite,
    shared_tuples,
    without,
)
from tests.places import NANOGPT

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are the system's"),
]

MEMORY = 512 << 20
"""Bytes that a refusal may ask for: the smallest of the bombs would take eight times that."""

Make = Callable[[Path], object]


@pytest.fixture
def _bounded() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The one sentence that the command ends in."""
    before = sorted(folder.rglob("*"))
    capfd.readouterr()
    quiet = ["--quiet"] if arguments[0] == "run" else []  # on a slow machine its stages are told
    code = main([*arguments, *quiet])
    out, error = capfd.readouterr()
    assert (code, out) == (3, ""), error
    assert error.startswith("peelaudit: error: ")
    assert error.count("\n") == 1, error
    assert error.rstrip("\n").isprintable()
    assert "Traceback" not in error
    assert "weights_only" not in error
    assert "not enough memory" not in error
    assert sorted(folder.rglob("*")) == before, "something was written"
    return error


# --- checkpoints ------------------------------------------------------------------------------------------------------


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def saved(change: Callable[[Path], object]) -> Make:
    """A sound nanoGPT file, then damaged."""

    def make(path: Path) -> None:
        torch.save(models.nanogpt(bias=False), path)
        change(path)

    return make


def holding(thing: object) -> Make:
    """A state dict with something else than a tensor under a tensor's name."""
    return lambda path: torch.save({"model": {"a.weight": torch.ones(2), "b.weight": thing}}, path)


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
    ("row 69, names that differ in case", record(twice_in_other_case)),
    ("row 70, two directories", resized(lambda raw: raw[:-22] + raw)),
    ("row 71, shared tuples", record(program(shared_tuples()))),
    ("row 72, nested tuples", record(program(b"})" + b"\x85" * 50_000 + b"Ns."))),
    ("row 73, colliding integers", record(program(colliding_integers()))),
    ("row 85, one entry of many", saved(one_entry)),
    ("a memo entry far beyond the others", record(program(b"Nr\xff\xff\xff\x7f."))),
]
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
]
GGUF: list[tuple[str, Make]] = [
    ("row 34, 4 bytes", content(b"GGUF")),
    ("row 34, truncated", content(struct.pack("<4sIQQ", b"GGUF", 3, 4, 20) + bytes(10))),
]
FILES = [
    pytest.param(suffix, make, id=row)
    for suffix, rows in ((".pt", TORCH), (".safetensors", SAFETENSORS), (".gguf", GGUF))
    for row, make in rows
]


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize(("suffix", "make"), FILES)
def test_files(
    command: str, suffix: str, make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str], request: Any
) -> None:
    path = tmp_path / f"model{suffix}"
    make(path)
    request.getfixturevalue("_bounded")
    assert path.name in refused([command, str(path)], tmp_path, capfd)


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_row_31_a_directory_that_holds_no_checkpoint_and_a_file_that_is_not_there(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path) in refused([command, str(tmp_path)], tmp_path, capfd)
    (tmp_path / "named.pt").mkdir()
    for name in ("named.pt", "gone.pt", "gone.safetensors", "gone"):
        assert name in refused([command, str(tmp_path / name)], tmp_path, capfd)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return models.save(models.model("llama"), tmp_path / "llama")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return models.save(models.model("llama"), tmp_path / "sharded", max_shard_size="20KB")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.usefixtures("_bounded")
def test_row_82_an_index_that_names_what_no_file_is_called(
    sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(
        sharded / "model.safetensors.index.json",
        lambda values: values["weight_map"].update({"lm_head.weight": "\ud800.safetensors"}),
    )
    assert "names no file" in refused(["run", str(sharded)], tmp_path, capfd)


@pytest.mark.usefixtures("_bounded")
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


@pytest.mark.usefixtures("_bounded")
def test_row_43_a_missing_shard(sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard = sorted(sharded.glob("*-of-*"))[1]
    shard.unlink()
    error = refused(["run", str(sharded)], tmp_path, capfd)
    assert shard.name in error
    assert "no such file" in error


@pytest.mark.usefixtures("_bounded")
@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 3}, {"num_hidden_layers": 10**9}, {"num_attention_heads": 0}], ids=str
)
def test_row_45_a_configuration_of_another_model(
    changes: dict[str, int], llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(llama / "config.json", lambda values: values.update(changes))
    for command in ("run", "inspect"):
        assert "llama" in refused([command, str(llama)], tmp_path, capfd)


@pytest.mark.usefixtures("_bounded")
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


@pytest.mark.usefixtures("_bounded")
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


# --- calibration data -------------------------------------------------------------------------------------------------

IDS = np.random.default_rng(0).integers(0, 64, 4000)


def array(values: Any) -> Make:
    return lambda path: np.save(path, values, allow_pickle=True)


def promising(shape: str) -> Make:
    """A .npy header of that shape with nothing behind it."""
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return content(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


def line(text: bytes) -> Make:
    return content(b'{"text": "a good one"}\n' * 40 + text + b"\n")


GOOD_TEXT = b"a good line\n" * 400
BOMB = gzip.compress(bytes(1 << 24)) * 64

DATA: list[tuple[str, str, Make, str]] = [
    ("row 49, object array", ".npy", array(np.array([[1], [2, 3]], dtype=object)), "unpickled"),
    ("row 50, a shape of 1e12", ".npy", promising("(1000000000000,)"), "promises"),
    ("row 51, float", ".npy", array(IDS.astype("f4")), "float32"),
    ("row 51, structured", ".npy", array(np.zeros(9, dtype=[("a", "i4")])), "dtype"),
    ("row 52, odd byte", ".bin", content(IDS.astype("<u2").tobytes() + b"\0"), "whole number of uint16"),
    ("row 53, a token beyond the vocabulary", ".npy", array(np.append(IDS, 64)), "token id 64"),
    ("row 53, a negative one", ".npy", array(np.append(IDS, -1)), "token id -1"),
    ("row 54, NaN", ".jsonl", line(b'{"text": NaN}'), "line 41"),
    ("row 54, duplicate key", ".jsonl", line(b'{"text": "a", "text": "b"}'), "line 41"),
    ("row 54, depth", ".jsonl", line(b'{"text": ' + b"[" * 100_000), "line 41"),
    ("row 54, an integer of 5,000 digits", ".jsonl", line(b'{"text": "a", "x": ' + b"9" * 5000 + b"}"), "line 41"),
    ("row 54, byte order mark", ".jsonl", line(b'\xef\xbb\xbf{"text": "a"}'), "line 41"),
    ("row 54, lone surrogate", ".jsonl", line(b'{"text": "\\ud800"}'), "line 41"),
    ("row 55, not UTF-8", ".txt", content(b"abc\xff\xfe"), "UTF-8"),
    ("row 55, empty", ".txt", content(b""), "empty"),
    ("truncated gzip", ".txt.gz", content(gzip.compress(GOOD_TEXT)[:-9]), "truncated"),
    ("not gzip", ".txt.gz", content(GOOD_TEXT), "can't be unpacked"),
    ("a gigabyte of one line in a megabyte", ".jsonl.gz", content(BOMB), "line 1: the line is longer than"),
    ("a chat without a role", ".jsonl", content(b'{"messages": [{"content": "a"}]}'), "line 1: message 1 has no role"),
    ("a chat without a template", ".jsonl", content(b'{"messages": [{"role": "a", "content": "b"}]}'), "--tokenizer"),
    ("a chat among texts", ".jsonl", line(b'{"messages": [{"role": "a", "content": "b"}]}'), "line 41: a chat"),
    ("no Arrow stream", ".arrow", content(GOOD_TEXT), "no Arrow stream"),
    ("an Arrow message of 2 GiB", ".arrow", content(struct.pack("<Ii", 2**32 - 1, 2**31 - 8)), "truncated"),
]


@pytest.mark.usefixtures("_bounded")
@pytest.mark.parametrize(("suffix", "make", "message"), [pytest.param(*rest, id=row) for row, *rest in DATA])
def test_data(
    suffix: str, make: Make, message: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, meta = tmp_path / f"data{suffix}", NANOGPT / "meta.pkl"
    make(data)
    error = refused(["run", str(llama), "--data", str(data), "--tokenizer", str(meta)], tmp_path, capfd)
    assert data.name in error
    assert message in error


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_weights_that_are_none_are_wrong_settings(
    weight: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (text := tmp_path / "a.txt").write_bytes(GOOD_TEXT)
    assert main(["run", str(llama), "--data", f"{text}={weight}"]) == 2
    out, error = capfd.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "a weight is a number above 0" in error


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_a_directory_of_datasets_without_rows(
    name: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "data").mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / name).write_text('{"_data_files": [], "splits": []}')
    assert "the dataset has no" in refused(["run", str(llama), "--data", str(folder)], tmp_path, capfd)


def test_row_51_big_endian_tokens_are_read_for_what_they_are(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for dtype in ("<i4", ">i4"):
        np.save(tmp_path / "data.npy", IDS.astype(dtype))
        assert main([*audit(llama, tmp_path), "-f", "json"]) == 0
        losses.append(json.loads(capfd.readouterr().out)["held_out"]["trained_loss"])
    assert losses[0] == losses[1]


# --- while running ----------------------------------------------------------------------------------------------------


def audit(checkpoint: Path, folder: Path) -> list[str]:
    options = ["--tokens", "1024", "--seq-len", "16", "--resamples", "100", "--effort", "quick"]
    return ["run", str(checkpoint), "--data", str(folder / "data.npy"), *options]


def test_row_89_calibration_data_edited_while_they_are_used(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.npy"
    np.save(data, IDS)

    def edited(*arguments: Any) -> Any:
        np.save(data, IDS[::-1])
        return check_weights(*arguments)

    monkeypatch.setattr("peelaudit.auditing.run.check_weights", edited)
    error = refused([*audit(llama, tmp_path), "--schedules", "final"], tmp_path, capfd)
    assert f"{data}: the calibration data were edited, replaced or removed" in error


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_row_56_weights_that_are_not_finite(value: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = models.model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5, 7] = value
    checkpoint = models.save(model, tmp_path / "model")
    np.save(tmp_path / "data.npy", IDS)
    error = refused([*audit(checkpoint, tmp_path), "-o", str(tmp_path / "report.json")], tmp_path, capfd)
    assert "model.layers.1.mlp.up_proj.weight" in error
    assert "NaN or Inf" in error


@pytest.mark.parametrize(
    ("names", "subject"),
    [
        (["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"], "layer 1"),
        (["model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"], "layer 2"),
        (
            ["model.layers.1.mlp.down_proj.weight"],
            "layer 2: hidden states became so large that a norm of them overflows",
        ),
        (["lm_head.weight"], "loss is NaN or Inf"),
    ],
    ids=["layer 1", "layer 2", "norm", "loss"],
)
@pytest.mark.parametrize("readout", ["own", "refit", "lens"])
def test_row_57_finite_weights_whose_results_are_not(
    names: list[str], subject: str, readout: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = models.model("llama")
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).fill_(3e38)
    checkpoint = models.save(model, tmp_path / "model")
    np.save(tmp_path / "data.npy", IDS)
    arguments = [*audit(checkpoint, tmp_path), "--readout", readout, "-o", str(tmp_path / "report.json")]
    assert subject in refused(arguments, tmp_path, capfd)
