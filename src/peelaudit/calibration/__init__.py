"""Calibration data: text or token ids in, three splits of dense sequences out. Before any work on the model.

    finding         which files: given, `calibration.*` beside the checkpoint, or the built-in text
    texts, columns, arrays      what a file holds: documents, or one undivided stream
    rows            what a row of records holds: a text, or a chat
    corpus          what all of them hold
    held            the same of texts or ids in memory
    tokenization    the checkpoint's tokenizer, or the given one; never from a hub
    encoder         documents and chats by a tokenizer
    bounded         a tokenizer in a child that is ended where it takes too much
    drawing         documents -> clusters of sequences
    mixing          the same from several places, each with its share
    describing      what the report says of it
    splits          clusters -> fit, select, held-out
    feeding         what stands before each sequence, and what is no target

**Documents and splits.** Exact duplicates are dropped, for the copy of a fitted document is no held-out one. The others
are shuffled (seeded) and joined to clusters (`draw_documents`); whole clusters go to the splits. Where there are no
documents, or fewer than three splits need, the sequence is the unit (`draw_streams`).

**Special tokens.** A document has in front of it what its tokenizer puts there by itself (Llama's `<s>`); where it adds
nothing but has one token for the beginning and the end of a text (GPT-2's `<|endoftext|>`), that one; else nothing.
What the tokenizer puts behind a text stands behind a whole document. Sequences that begin within a document, and all of
an undivided text, begin so as well where the trained network does better then (`peelaudit.auditing.feeding`). Measured,
nats/token of the text on TinyStories, sequences of 128:

    stories260K             a story with `<s>` before it 1.443   with nothing 1.475          with `</s>` 1.545
    bitllama-3M                                          1.349                1.368                      1.375
    SmolLM2-135M-Instruct             `<|im_start|>` 2.522                2.496          `<|im_end|>` 2.550
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.corpus import Corpus, Portion, read_corpus
from peelaudit.calibration.describing import check_enough, data_info, warnings_of
from peelaudit.calibration.drawing import Document, choose_seq_len, drop_repeated
from peelaudit.calibration.encoder import Encoder, encode_document, render_chats
from peelaudit.calibration.feeding import feeding_only, headed
from peelaudit.calibration.finding import find_parts
from peelaudit.calibration.held import Held, corpus_of
from peelaudit.calibration.mixing import Encode, Mixture, draw, split
from peelaudit.calibration.rows import Chat, Rendered, Row
from peelaudit.calibration.sources import SourceFile, check_unchanged
from peelaudit.calibration.splits import MIN_CLUSTERS, Split, join, sha256_of_tokens, split_info
from peelaudit.calibration.tokenization import check_tokenizer, encoder_of, find_tokenizer, write_tokenizer
from peelaudit.errors import CalibrationError, ConfigError
from peelaudit.progress import SILENT, Progress
from peelaudit.records import CheckpointInfo, DataInfo, Front
from peelaudit.settings.audit import AuditConfig

__all__ = ["Calibration", "Held", "Split", "check_given", "load_calibration", "write_tokenizer"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration data, ready to be run. `warnings` are sentences for the report."""

    fit: Split
    select: Split
    held_out: Split
    info: DataInfo
    warnings: tuple[str, ...]
    front: tuple[int, ...] = ()
    """What the tokenizer puts before a text, where it isn't left out."""
    sources: tuple[SourceFile, ...] = ()
    """The files that were read; none where the built-in text was."""

    def check_unchanged(self) -> None:
        """Raise CalibrationError if the files aren't those any more that were read."""
        check_unchanged(self.sources, self.info.sha256)

    def headed(self) -> Calibration:
        """With `front` before each sequence, not documents alone."""
        return self._changed(lambda split: headed(split, self.front))

    def feeding_only(self, tokens: Collection[int]) -> Calibration:
        """With these tokens fed to the network, and never to be predicted."""
        return self._changed(lambda split: feeding_only(split, tokens))

    def placed(self, placement: str, losses: tuple[float, float] | None, fed_only: tuple[int, ...]) -> Calibration:
        """With what is said of `front` in the report."""
        without, within = losses or (None, None)
        front = Front(self.front, placement, without, within, fed_only)
        return dataclasses.replace(self, info=dataclasses.replace(self.info, front=front))

    def _changed(self, change: Callable[[Split], Split]) -> Calibration:
        info, splits = self.info, [change(split) for split in (self.fit, self.select, self.held_out)]
        sizes = [
            split_info(split, size.documents)
            for split, size in zip(splits, (info.fit, info.select, info.held_out), strict=True)
        ]
        digest = sha256_of_tokens(splits)
        drawn = info.drawn_sha256 or ("" if digest == info.tokens_sha256 else info.tokens_sha256)
        info = dataclasses.replace(
            info, tokens_sha256=digest, drawn_sha256=drawn, fit=sizes[0], select=sizes[1], held_out=sizes[2]
        )
        return dataclasses.replace(self, info=info, fit=splits[0], select=splits[1], held_out=splits[2])


def check_given(config: AuditConfig) -> None:
    """Look for the data and the tokenizer that the settings name, as can be done before a checkpoint is opened.

    Raises:
        CalibrationError: one isn't there, can't be read, or is of no kind that is known.
        ConfigError: the data's weights aren't weights.
    """
    if config.data:
        find_parts(config.data, Path(config.checkpoint))
    if config.tokenizer is not None:
        check_tokenizer(Path(config.tokenizer))


def load_calibration(
    config: AuditConfig, checkpoint: CheckpointInfo, *, held: Held | None = None, progress: Progress = SILENT
) -> Calibration:
    """Read, tokenise and split the calibration data that `config` names for this checkpoint, or what is `held`.

    Equal settings and equal data give equal splits.

    Raises:
        CalibrationError: the data or the tokenizer can't be read, don't belong to the model, or are too few.
        ConfigError: the settings ask for sequences longer than the context, or for too few tokens.
    """
    _check_settings(config, checkpoint)
    corpus = read_corpus(config, checkpoint, progress) if held is None else corpus_of(held, checkpoint.vocabulary)
    progress.stage("tokenising", 1)
    encoder = _encoder(config, checkpoint, corpus, None if held is None else held.tokenizer)
    portions = _rendered(corpus, encoder)
    seq_len, mixture = _draw(config, checkpoint.context, portions, _encoding(encoder, checkpoint.vocabulary))
    clusters, repeated = drop_repeated([drawn.clusters for drawn in mixture.drawn])
    check_enough(portions, mixture.drawn, clusters, seq_len)
    parts = split(clusters, config.split, config.seed)
    fit, select, held_out = (join([cluster for portion in part for cluster in portion]) for part in parts)
    info = data_info(corpus, mixture.drawn, encoder.name if encoder else None, (fit, select, held_out), parts)
    progress.advance()
    warnings = (*corpus.warnings, *warnings_of(config, checkpoint.context, info, repeated))
    return Calibration(fit, select, held_out, info, warnings, encoder.prefix if encoder else (), corpus.sources)


def _check_settings(config: AuditConfig, checkpoint: CheckpointInfo) -> None:
    if checkpoint.context < 2:
        raise CalibrationError(f"{checkpoint.path}: a context of {checkpoint.context} leaves no token to predict")
    problems = []
    if config.seq_len is not None and config.seq_len > checkpoint.context:
        problems.append(f"seq-len is {config.seq_len}: the model's context is {checkpoint.context}")
    seq_len = config.seq_len or choose_seq_len(config.tokens, checkpoint.context)
    if config.tokens < MIN_CLUSTERS * seq_len:
        least = f"three splits need {MIN_CLUSTERS} sequences of {seq_len}, {MIN_CLUSTERS * seq_len} tokens"
        problems.append(f"tokens is {config.tokens}: {least}")
    if config.separator == "":
        problems.append("separator is empty")
    if problems:
        raise ConfigError(*problems)


def _encoder(config: AuditConfig, checkpoint: CheckpointInfo, corpus: Corpus, held: Any) -> Encoder | None:
    """The tokenizer, `held` or found, putting nothing in front where that isn't wanted. Token ids alone need none."""
    if all(isinstance(one, np.ndarray) for portion in corpus.portions for one in portion.documents):
        return None
    path = Path(checkpoint.path)
    if held is None:
        encoder = find_tokenizer(config.tokenizer, path, checkpoint.vocabulary, config=config.config)
    else:
        encoder = encoder_of(held)
    return dataclasses.replace(encoder, prefix=()) if config.bos == "never" else encoder


def _rendered(corpus: Corpus, encoder: Encoder | None) -> list[Portion[Document]]:
    """The portions, chats as the tokenizer's template writes them."""
    chats = [one for portion in corpus.portions for one in portion.documents if isinstance(one, Chat)]
    texts = iter(render_chats(encoder, chats))

    def rendered(document: Row | Tokens) -> Document:
        return next(texts) if isinstance(document, Chat) else document

    return [
        Portion(portion.name, portion.share, [rendered(one) for one in portion.documents], portion.divided)
        for portion in corpus.portions
    ]


def _encoding(encoder: Encoder | None, vocabulary: int) -> Encode:
    """What gives a document's first tokens."""

    def encode(document: Document, limit: int, *, whole: bool) -> Tokens:
        if encoder is None or not isinstance(document, str):
            return np.asarray(document[:limit], dtype=np.int64)
        bare = whole and not isinstance(document, Rendered)
        return encode_document(encoder, document, limit=limit, vocabulary=vocabulary, whole=bare)

    return encode


def _draw(
    config: AuditConfig, context: int, portions: Sequence[Portion[Document]], encode: Encode
) -> tuple[int, Mixture]:
    """The sequence length and the sequences: by what was asked for, then, if there is less, by what there is."""

    def drawn(seq_len: int) -> Mixture:
        return draw(portions, encode, seq_len=seq_len, wanted=config.tokens // seq_len, seed=config.seed)

    seq_len = config.seq_len or choose_seq_len(config.tokens, context)
    mixture = drawn(seq_len)
    if config.seq_len is None and mixture.available is not None:
        shorter = choose_seq_len(min(config.tokens, mixture.available), context)
        if shorter < seq_len:
            return shorter, drawn(shorter)
    return seq_len, mixture
