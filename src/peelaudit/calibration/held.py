"""Texts or token ids that a program holds, instead of files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.corpus import Corpus, Portion, distinct
from peelaudit.calibration.default_text import sha256_of_texts
from peelaudit.calibration.rows import Row
from peelaudit.calibration.splits import MIN_CLUSTERS
from peelaudit.errors import CalibrationError

__all__ = ["Held", "corpus_of"]

_NAME = "what the program gave"


@dataclass(frozen=True, slots=True)
class Held:
    """Documents, and a tokenizer of transformers or None: token ids alone need none.

    `documents` are texts, or sequences of token ids; or one array of ids, [tokens] or [documents, tokens].
    """

    documents: Any
    tokenizer: Any = None


def corpus_of(held: Held, vocabulary: int) -> Corpus:
    """What the documents are to calibration.

    Raises:
        CalibrationError: they are neither texts nor token ids, or there is none, or an id isn't in the vocabulary.
    """
    documents = _documents(held.documents, vocabulary)
    texts = all(isinstance(one, str) for one in documents)
    (kept,) = distinct([documents])
    ids = [one for one in documents if isinstance(one, np.ndarray)]
    return Corpus(
        source=_NAME,
        kind="texts" if texts else "ids",
        sha256=sha256_of_texts([str(one) for one in documents]) if texts else _sha256_of_ids(ids),
        portions=(Portion(_NAME, 1.0, kept, divided=len(kept) >= MIN_CLUSTERS),),
        complete=True,
        duplicates=len(documents) - len(kept),
        tokens=None if texts else sum(map(len, ids)),
        warnings=(),
    )


def _documents(given: Any, vocabulary: int) -> list[Row | Tokens]:
    if isinstance(given, str):
        given = [given]
    found: Any = given.tolist() if hasattr(given, "tolist") else list(given)
    if found and isinstance(found[0], int):
        found = [found]
    if not found:
        raise CalibrationError(f"{_NAME} holds no document")
    if all(isinstance(one, str) for one in found):
        return list(found)
    return [_ids(one, vocabulary) for one in found]


def _ids(document: Any, vocabulary: int) -> Tokens:
    ids = document.tolist() if hasattr(document, "tolist") else document
    if isinstance(ids, str) or not isinstance(ids, Sequence) or any(type(one) is not int for one in ids):
        raise CalibrationError(f"{_NAME} is neither texts alone nor sequences of token ids alone")
    if wrong := next((one for one in ids if not 0 <= one < vocabulary), None):
        raise CalibrationError(f"{_NAME} holds the token id {wrong}, and the model's vocabulary is {vocabulary}")
    return np.asarray(ids, dtype=np.int64)


def _sha256_of_ids(documents: Sequence[Tokens]) -> str:
    digest = hashlib.sha256()
    for ids in documents:
        digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
    return digest.hexdigest()
