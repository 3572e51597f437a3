"""Files of texts and chats, as the libraries that write them lay them out, and a tokenizer with a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.support import CHARACTERS

ROLES = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
WORDS = "some words of document {} , " + "and more of them " * 8


def chats(count: int = 40) -> list[list[dict[str, Any]]]:
    return [
        [
            {"role": "user", "content": f"what is number {number}, and why "},
            {"role": "assistant", "content": f"it is {number}, for that is so " * 4},
        ]
        for number in range(count)
    ]


def as_sharegpt(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


def in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}], "name": None} for m in messages]


def by_columns(messages: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [message[key] for message in messages] for key in ("role", "content")}


def chat_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A tokenizer of characters with a token for each role and for the beginning, which it puts in front."""
    (folder := folder / "tokenizer").mkdir(exist_ok=True)
    special = [*ROLES, "<s>"]
    vocabulary = {token: index for index, token in enumerate([*CHARACTERS, *special])}
    added = [
        {"id": vocabulary[token], "content": token, "special": True, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for token in special
    ]
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    front = {"type": "TemplateProcessing", "single": single, "pair": single}
    front["special_tokens"] = {"<s>": {"id": "<s>", "ids": [vocabulary["<s>"]], "tokens": ["<s>"]}}
    record = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "decoder"))
    record |= {"version": "1.0", "added_tokens": added, "post_processor": front}  # type: ignore[dict-item]
    record |= {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}  # type: ignore[dict-item]
    (folder / "tokenizer.json").write_text(json.dumps(record))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in config.items() if value}))
    return folder


def documents(count: int = 40) -> list[str]:
    return [WORDS.format(number) for number in range(count)]


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def write_arrow(path: Path, *, whole: bool = False, options: Any = None, **columns: list[Any]) -> Path:
    """A stream of several batches, or the file format."""
    pyarrow, ipc = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.ipc")
    table = pyarrow.table(columns)
    new = ipc.new_file if whole else ipc.new_stream
    with pyarrow.OSFile(str(path), "wb") as file, new(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=15)
    return path
