"""Calibration data and tokenizers: texts, chats, ids, columns, saved datasets, and what encodes them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import zstandard

from bench.fuzz.case import Files, Format, read
from bench.fuzz.formats.gguf_files import change_gguf
from bench.fuzz.formats.pickles import change_pickle
from bench.fuzz.mutation import NUMBERS, TEXTS, change_bytes, change_json, change_number, several
from bench.fuzz.uses import load_data
from tests.calibration.files import as_sharegpt, by_columns, chat_tokenizer, chats, documents, in_parts
from tests.calibration.support import CHARACTERS
from tests.checkpoints import gguf_models, models

__all__ = ["CALIBRATION"]

_IDS = np.random.default_rng(0).integers(0, 64, 800)
_DTYPES = (
    "<i8",
    "<u2",
    ">i4",
    "|u1",
    "<f4",
    "|O",
    "<M8[s]",
    "<U3",
    "<c8",
    "|V8",
    "[('a','<i4')]",
    "x",
    "",
    "<i16",
    "|b1",
)
_SHAPES = (
    "(1000000000000,)",
    "(True,)",
    "()",
    "(0,)",
    "(-1,)",
    "(2,400)",
    "(800,1)",
    "(1,800)",
    "(2**9,)",
    "(1,1,800)",
    "[800]",
)


# --- texts ------------------------------------------------------------------------------------------------------------


def _texts(_: Path) -> Sequence[Files]:
    texts, rows = documents(30), [{"text": text, "n": number} for number, text in enumerate(documents(30))]
    talks: list[list[Any]] = [[{"messages": talk} for talk in chats(30)]]
    talks.append([{"conversations": as_sharegpt(talk)} for talk in chats(30)])
    talks.append([{"messages": in_parts(talk)} for talk in chats(30)])
    lines = ["\n".join(map(json.dumps, some)).encode() for some in (rows, *talks)]
    plain = "\f".join(texts).encode()
    return [
        {"data.txt": plain},
        {"data.txt": "<|endoftext|>".join(texts).encode()},
        *({"data.jsonl": raw} for raw in lines),
        {"data.json": json.dumps(rows).encode()},
        {"data.json": json.dumps(talks[0]).encode()},
        {"data.txt.gz": gzip.compress(plain, mtime=0)},
        {"data.jsonl.gz": gzip.compress(lines[0], mtime=0)},
        {"data.txt.zst": zstandard.compress(plain)},
        {"data.jsonl.zst": zstandard.compress(lines[1])},
    ]


def _changed_text(draw: Random, files: Files) -> Files:
    ((name, raw),) = files.items()
    if name.endswith((".gz", ".zst")):
        packed = draw.random() < 0.5
        if packed:
            return {name: change_bytes(draw, raw)}
        inner = gzip.decompress(raw) if name.endswith(".gz") else zstandard.decompress(raw)
        other = _changed_plain(draw, name.rpartition(".")[0], inner)
        return {name: gzip.compress(other, mtime=0) if name.endswith(".gz") else zstandard.compress(other)}
    return {name: _changed_plain(draw, name, raw)}


def _changed_plain(draw: Random, name: str, raw: bytes) -> bytes:
    if name.endswith(".json"):
        return change_json(draw, raw)
    if name.endswith(".jsonl"):
        lines = raw.split(b"\n")
        for _ in range(draw.choice((1, 1, 3))):
            at = draw.randrange(len(lines))
            lines[at] = draw.choice((change_json, change_json, change_json, change_bytes))(draw, raw.split(b"\n")[at])
        return b"\n".join(lines)
    some = draw.choice((*TEXTS, "<|endoftext|>", "\f", " = A title = \n", "\ufeff")).encode("utf-8", "surrogatepass")
    at = draw.randrange(len(raw))
    return draw.choice((raw[:at] + some + raw[at:], change_bytes(draw, raw), some, some * 1000))


# --- ids --------------------------------------------------------------------------------------------------------------


def _arrays(_: Path) -> Sequence[Files]:
    found: list[Files] = []
    for array in (
        _IDS,
        _IDS.astype("<u2").reshape(40, 20),
        np.asfortranarray(_IDS.reshape(20, 40)),
        _IDS.astype(">i4"),
    ):
        np.save(raw := io.BytesIO(), array)
        found.append({"data.npy": raw.getvalue()})
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, _IDS.size
    found.append({"data.bin": _IDS.astype("<u2").tobytes()})
    found.append({"data.bin": _IDS.astype("<u4").tobytes()})
    found.append({"data.bin": header.tobytes() + _IDS.astype("<u2").tobytes()})
    return found


def _changed_array(draw: Random, files: Files) -> Files:
    ((name, raw),) = files.items()
    if name.endswith(".bin") or draw.random() < 0.3:
        at = draw.randrange(len(raw) // 4) * 4
        number = change_number(draw, int.from_bytes(raw[:4], "little"))
        number = number % 2**32 if isinstance(number, int) else 0
        return {name: draw.choice((change_bytes(draw, raw), raw[:at] + number.to_bytes(4, "little") + raw[at + 4 :]))}
    begin = 10
    end = begin + int.from_bytes(raw[8:10], "little")
    header = raw[begin:end].decode("latin1")
    match draw.randrange(5):
        case 0:
            header = header.replace(header.split("'")[3], draw.choice(_DTYPES))
        case 1:
            header = header[: header.index("(")] + draw.choice(_SHAPES) + ", }"
        case 2:
            header = draw.choice((header.replace("False", "True"), header.replace("'shape'", "'shap'"), header + "1"))
        case 3:
            header = draw.choice(
                ("{" * 3000, "(" * 200, "9" * 5000, "__import__('os')", "[].append", "\0", "'a'*10**9", "-" * 5000)
            )
        case _:
            header = change_bytes(draw, header.encode("latin1")).decode("latin1")
    text = header.encode("latin1", "replace")
    told = draw.choice(NUMBERS) % 65536 if draw.random() < 0.1 else len(text) % 65536
    magic = raw[:6] + bytes(draw.choice(((1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 9))))
    length = told.to_bytes(4 if magic[6] > 1 else 2, "little")
    return {name: magic + length + text + raw[end:]}


# --- columns ----------------------------------------------------------------------------------------------------------


def _columns(folder: Path) -> Sequence[Files]:
    tables = [pyarrow.table({"text": documents(30), "n": list(range(30))}), pyarrow.table({"messages": chats(30)})]
    tables.append(pyarrow.table({"messages": [by_columns(talk) for talk in chats(30)]}))
    found: list[Files] = []
    for table in tables:
        for options in ({"compression": "none"}, {"compression": "zstd"}):
            pyarrow.parquet.write_table(table, raw := io.BytesIO(), **options)
            found.append({"data.parquet": raw.getvalue()})
        for new in (pyarrow.ipc.new_stream, pyarrow.ipc.new_file):
            with new(raw := io.BytesIO(), table.schema) as writer:
                writer.write_table(table, max_chunksize=15)
            found.append({"data.arrow": raw.getvalue()})
    state = {"_data_files": [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}], "_indices_data_files": None}
    stream = found[2]["data.arrow"]
    saved = {
        "state.json": json.dumps(state).encode(),
        "dataset_info.json": b"{}",
        "data-0.arrow": stream,
        "data-1.arrow": stream,
    }
    found.append({f"data/{name}": data for name, data in saved.items()})
    split = {"data/dataset_dict.json": b'{"splits": ["train"]}'}
    found.append({**split, **{f"data/train/{name}": data for name, data in saved.items()}})
    return found


def _changed_column(draw: Random, files: Files) -> Files:
    name = draw.choice(sorted(files))
    if name.endswith(".json"):
        return {**files, name: change_json(draw, files[name])}
    raw = files[name]

    def change() -> None:
        nonlocal raw
        raw = change_bytes(draw, raw)

    several(draw, change)
    return {**files, name: raw}


# --- tokenizers -------------------------------------------------------------------------------------------------------


def _tokenizers(folder: Path) -> Sequence[Files]:
    stoi = {sign: number for number, sign in enumerate(CHARACTERS)}
    table = {"vocab_size": len(stoi), "stoi": stoi, "itos": {number: sign for sign, number in stoi.items()}}
    serialised = read(chat_tokenizer(folder))
    pieces = {**stoi, "ab": len(stoi), "abc": len(stoi) + 1}
    found: list[Files] = [{"meta.pkl": pickle.dumps(table, protocol=protocol)} for protocol in (0, 2, 4)]
    found += [{"meta.json": json.dumps({"stoi": stoi}).encode()}, {"vocab.json": json.dumps(stoi).encode()}]
    found += [serialised, serialised, {"tokenizer.json": _rich(serialised["tokenizer.json"])}]
    merges = b"#version: 0.2\na b\nab c\n"
    config = json.dumps({"tokenizer_class": "GPT2Tokenizer", "unk_token": "a", "model_max_length": 64}).encode()
    found.append({"vocab.json": json.dumps(pieces).encode(), "merges.txt": merges, "tokenizer_config.json": config})
    found.append({"tokenizer.model": _sentencepiece()})
    found.append({"model.gguf": _told(folder)})
    return found


def _rich(raw: bytes) -> bytes:
    """A tokenizer.json that has some of everything."""
    record = json.loads(raw)
    replace = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    record["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace, {"type": "Lowercase"}]}
    split = {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": False}
    digits = {"type": "Digits", "individual_digits": True}
    record["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, digits]}
    record["model"] |= {"unk_token": "a", "merges": [["a", "b"]], "byte_fallback": False, "dropout": None}
    record["model"]["vocab"]["ab"] = 100
    record["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "a",
    }
    record["padding"]["pad_to_multiple_of"] = None
    record["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    return json.dumps(record).encode()


def _sentencepiece() -> bytes:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents(30)), model_writer=(made := io.BytesIO()), vocab_size=30, minloglevel=3
    )
    return made.getvalue()


def _told(folder: Path) -> bytes:
    def tokens(writer: Any) -> None:
        signs = ["Ġ" if sign == " " else "Ċ" if sign == "\n" else sign for sign in CHARACTERS]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*signs, "ab"])
        writer.add_token_types([1] * (len(signs) + 1))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = models.model("llama", num_hidden_layers=1, vocab_size=len(CHARACTERS) + 1)
        return gguf_models.convert(made, folder / "told.gguf", metadata=tokens).read_bytes()


_OF_TOKENIZERS: Mapping[str, Callable[[Random, bytes], bytes]] = {
    ".json": change_json,
    ".pkl": lambda draw, raw: change_bytes(draw, raw) if draw.random() < 0.2 else change_pickle(draw, raw),
    ".gguf": change_gguf,
    ".model": change_bytes,
    ".txt": change_bytes,
}


def _changed_tokenizer(draw: Random, files: Files) -> Files:
    name = draw.choice(sorted(files))
    return {**files, name: _OF_TOKENIZERS[Path(name).suffix](draw, files[name])}


def _use_tokenizer(folder: Path) -> None:
    text = folder.parent / "text.txt"
    if not text.exists():
        text.write_text("\f".join(documents(12)))
    if (folder / "model.gguf").is_file():
        load_data(text, tokenizer=None, beside=folder / "model.gguf")
    else:
        load_data(text, tokenizer=folder, beside=folder.parent / "x.pt")


def _use_data(folder: Path) -> None:
    """The data beside a tokenizer of characters, and one with a template where they are chats."""
    place = folder.parent / "tokenizer"
    if not place.exists():
        chat_tokenizer(folder.parent)
    (data,) = folder.iterdir()
    load_data(data, tokenizer=place, beside=folder.parent / "x.pt")


CALIBRATION = (
    Format("text", 6, _texts, _changed_text, _use_data),
    Format("array", 5, _arrays, _changed_array, _use_data),
    Format("column", 5, _columns, _changed_column, _use_data),
    Format("tokenizer", 3, _tokenizers, _changed_tokenizer, _use_tokenizer),
)
