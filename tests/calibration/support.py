"""A checkpoint's record, a character-level tokenizer, and where the real models and texts are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from peelaudit.calibration import Calibration, load_calibration
from peelaudit.errors import CalibrationError
from peelaudit.records import CheckpointInfo
from peelaudit.settings.audit import AuditConfig
from tests.places import SHARED

CHARACTERS = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=.,<>|"


def shared(name: str) -> Path:
    if not (path := SHARED / name).exists():
        pytest.skip(f"{name} is not at hand")
    return path


def checkpoint(path: Path, vocabulary: int = 128, context: int = 512) -> CheckpointInfo:
    return CheckpointInfo(
        path=str(path),
        format="torch",
        family="gpt2",
        architecture="GPT",
        layers=2,
        width=8,
        heads=2,
        kv_heads=2,
        mlp_width=32,
        vocabulary=vocabulary,
        context=context,
        dtype="float32",
        parameters=1,
        bytes=1,
        tied_head=True,
        tokenizer=None,
        training_step=None,
        files=(path.name,),
        sha256="0" * 64,
        tensors=(),
    )


def character_tokenizer(folder: Path, characters: str = CHARACTERS) -> Path:
    stoi = {char: index for index, char in enumerate(characters)}
    path = folder / "meta.pkl"
    itos = {index: char for char, index in stoi.items()}
    path.write_bytes(pickle.dumps({"vocab_size": len(stoi), "stoi": stoi, "itos": itos}))
    return path


def tokenizer_json(folder: Path, special: bool = False, **model: Any) -> Path:
    """The same characters for the tokenizers library, as a BPE without merges."""
    vocabulary = {char: index for index, char in enumerate([*CHARACTERS, "<|endoftext|>"])}
    bpe = {"type": "BPE", "vocab": vocabulary, "merges": [], **model}
    end = {"id": len(CHARACTERS), "content": "<|endoftext|>", "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    record = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    record |= {"version": "1.0", "added_tokens": [end] if special else [], "model": bpe}
    (path := folder / "tokenizer.json").write_text(json.dumps(record))
    return path


def load(folder: Path, *data: Path, vocabulary: int = 128, context: int = 512, **settings: Any) -> Calibration:
    """Load for a checkpoint file in `folder`, which gets the character-level tokenizer."""
    if not (folder / "meta.pkl").exists():
        character_tokenizer(folder)
    settings.setdefault("tokens", 2048)
    config = AuditConfig(checkpoint=str(folder / "ckpt.pt"), data=tuple(map(str, data)), **settings)
    return load_calibration(config, checkpoint(folder / "ckpt.pt", vocabulary, context))


def refusal(folder: Path, *data: Path, **settings: Any) -> str:
    """The one line of the CalibrationError that loading ends in."""
    with pytest.raises(CalibrationError) as caught:
        load(folder, *data, **settings)
    message = str(caught.value)
    assert message.isprintable(), "one line, without control characters"
    return message


def decode(tokens: Any) -> str:
    return "".join(CHARACTERS[token] for token in tokens)
