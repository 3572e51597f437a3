"""The tokens of the study: what is trained on, what references are fitted to, chosen on and judged on.

    *fit*        from the documents of TRAIN that were trained on
    *select*     from the other documents of TRAIN: heads, penalties and schedules are chosen on them
    *held-out*   from TEST

So the fit-token figures are on the network's own training tokens, as the paper's are, and the held-out ones on text of
which neither the network nor a reference knows anything. Two things differ from the paper. Its heads are trained on
the fit tokens and not stopped on others: what its fit-token bounds would be here has not been measured. And an audit of
one text, split by document, has *held-out* from the same text; that would be training tokens here, which the network
has seen and a reference not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bench.studies.plan import Study
from fixtures.vocabulary import train_bpe
from peelaudit.calibration import Calibration
from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.drawing import Cluster, Document, draw_documents, drop_repeated
from peelaudit.calibration.finding import find_parts
from peelaudit.calibration.sources import sha256_of_files
from peelaudit.calibration.splits import MIN_CLUSTERS_PER_SPLIT, join, sha256_of_tokens, split_info
from peelaudit.calibration.texts import read_txt
from peelaudit.errors import CalibrationError
from peelaudit.records import DataInfo

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token ids by document, each ending in the end of text. `sha256` is of both files."""

    train: Path
    test: Path
    tokenizer: Tokenizer
    trained: tuple[Tokens, ...]
    untrained: tuple[Tokens, ...]
    tested: tuple[Tokens, ...]
    sha256: str


def read_corpus(train: Path, test: Path, study: Study) -> Corpus:
    """Read both texts and train the tokenizer.

    Raises:
        CalibrationError: a text can't be read, has no documents, or is too short.
    """
    texts, others = _documents(train), _documents(test)
    tokenizer = train_bpe(texts, study.vocabulary, END_OF_TEXT)

    def encode(text: str) -> Tokens:
        return np.array([*tokenizer.encode(text).ids, tokenizer.token_to_id(END_OF_TEXT)], dtype=np.int64)

    trained: list[Tokens] = []
    left = study.train_tokens
    encoded = iter([encode(text) for text in texts])
    while left > 0 and (ids := next(encoded, None)) is not None:
        trained.append(ids[:left])
        left -= len(trained[-1])
    if left > 0:
        there = f"{study.train_tokens - left} tokens, and {study.train_tokens} are trained on"
        raise CalibrationError(f"{train} holds only {there}")
    return Corpus(
        train=train,
        test=test,
        tokenizer=tokenizer,
        trained=tuple(trained),
        untrained=tuple(encoded),
        tested=tuple(encode(text) for text in others),
        sha256=sha256_of_files(find_parts((str(train), str(test)), Path())[0].sources),
    )


def _documents(path: Path) -> list[str]:
    (source,) = find_parts((str(path),), Path())[0].sources
    texts = read_txt(source, None, source.bytes)
    if not texts.divided:
        raise CalibrationError(
            f"{path}: no documents were found: they are divided by <|endoftext|>, or by WikiText's titles"
        )
    return [str(text) for text in texts.documents]


def calibration(corpus: Corpus, study: Study) -> Calibration:
    """The three splits.

    Raises:
        CalibrationError: a split has too few tokens.
    """
    parts = (
        _draw(corpus.train, corpus.trained, study.fit_tokens, study),
        _draw(corpus.train, corpus.untrained, study.select_tokens, study),
        _draw(corpus.test, corpus.tested, study.test_tokens, study),
    )
    fit, select, held_out = (join(part) for part in parts)
    documents = [sum(cluster.documents for cluster in part) for part in parts]
    info = DataInfo(
        source=f"{corpus.train.name}, {corpus.test.name}",
        kind="txt",
        sha256=corpus.sha256,
        tokens_sha256=sha256_of_tokens((fit, select, held_out)),
        tokenizer="byte-level BPE",
        unit="document",
        documents=sum(documents),
        duplicate_documents=0,
        available_tokens=None,
        seq_len=study.context,
        fit=split_info(fit, documents[0]),
        select=split_info(select, documents[1]),
        held_out=split_info(held_out, documents[2]),
    )
    return Calibration(fit, select, held_out, info, ())


def _draw(path: Path, documents: Sequence[Document], tokens: int, study: Study) -> list[Cluster]:
    wanted = tokens // study.context
    drawn = draw_documents(
        documents,
        lambda ids, limit: np.asarray(ids[:limit]),
        seq_len=study.context,
        wanted=wanted,
        order=range(len(documents)),
    )
    (clusters,), _ = drop_repeated([drawn.clusters])
    found = sum(len(cluster.sequences) for cluster in clusters)
    if found < wanted or len(clusters) < MIN_CLUSTERS_PER_SPLIT:
        raise CalibrationError(
            f"{path}: {len(clusters)} documents give {found * study.context} tokens to audit with; "
            f"{tokens} are needed, of {MIN_CLUSTERS_PER_SPLIT} documents or more"
        )
    return clusters
