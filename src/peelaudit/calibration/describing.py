"""What the report says of the calibration data, and what is too little of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from peelaudit.calibration.corpus import Corpus, Portion
from peelaudit.calibration.drawing import Cluster, Document, Drawn, cut_short, tokens_for_context
from peelaudit.calibration.splits import MIN_CLUSTERS, Split, sha256_of_tokens, split_info
from peelaudit.errors import CalibrationError
from peelaudit.records import DataInfo, DataShare
from peelaudit.settings.audit import AuditConfig

__all__ = ["check_enough", "data_info", "warnings_of"]

FEW_CLUSTERS = 20
"""With fewer clusters 95 % intervals are wide, and cover 90 to 99 % (docs/results/intervals.md)."""


def check_enough(
    portions: Sequence[Portion[Document]],
    drawn: Sequence[Drawn],
    clusters: Sequence[Sequence[Cluster]],
    seq_len: int,
) -> None:
    """Whether each portion has what three splits need.

    Raises:
        CalibrationError: one hasn't; the message says what it has.
    """
    for portion, found, kept in zip(portions, drawn, clusters, strict=True):
        if len(kept) >= MIN_CLUSTERS:
            continue
        unit = f"{len(portion.documents)} documents" if portion.divided else "undivided text"
        what = f"groups of documents with {seq_len} tokens" if portion.divided else f"different sequences of {seq_len}"
        tokens = math.ceil(MIN_CLUSTERS * seq_len / portion.share)
        share = f" for a share of {portion.share:.3g}" if len(portions) > 1 else ""
        least = f"three splits need {MIN_CLUSTERS}, so at least {tokens} tokens{' in all' if share else ''}"
        raise CalibrationError(
            f"{portion.name}: {found.tokens} tokens of {unit}{share} make {len(kept)} {what}; {least}"
        )


def data_info(
    corpus: Corpus,
    drawn: Sequence[Drawn],
    tokenizer: str | None,
    splits: Sequence[Split],
    parts: Sequence[Sequence[Sequence[Cluster]]],
) -> DataInfo:
    """The record of what was drawn: `parts` are the clusters by split and portion."""
    counted = corpus.documents is not None
    documents = [sum(one.documents for clusters in part for one in clusters) if counted else None for part in parts]
    fit, select, held_out = (split_info(*pair) for pair in zip(splits, documents, strict=True))
    met = sum(one.tokens for one in drawn) if all(one.exhausted for one in drawn) and corpus.complete else None
    return DataInfo(
        source=corpus.source,
        kind=corpus.kind,
        sha256=corpus.sha256,
        tokens_sha256=sha256_of_tokens(splits),
        tokenizer=tokenizer,
        unit="document" if counted else "sequence",
        documents=corpus.documents,
        duplicate_documents=corpus.duplicates,
        available_tokens=met if corpus.tokens is None else corpus.tokens,
        seq_len=splits[0].tokens.shape[1],
        fit=fit,
        select=select,
        held_out=held_out,
        shares=_shares(corpus, parts) if len(corpus.portions) > 1 else (),
    )


def _shares(corpus: Corpus, parts: Sequence[Sequence[Sequence[Cluster]]]) -> tuple[DataShare, ...]:
    found = []
    for index, portion in enumerate(corpus.portions):
        fit, select, held_out = (sum(len(one.sequences) for one in part[index]) for part in parts)
        documents = len(portion.documents) if portion.divided else None
        found.append(DataShare(portion.name, portion.share, documents, fit, select, held_out))
    return tuple(found)


def warnings_of(config: AuditConfig, context: int, info: DataInfo, repeated: int) -> list[str]:
    """What to say of how much there is, and how it was cut.

    Args:
        config: the settings.
        context: of the model.
        info: what was drawn.
        repeated: sequences that were left out.
    """
    warnings = []
    if repeated:
        warnings.append(f"{repeated} sequences repeat another one token for token and were left out")
    used = sum(split.tokens for split in (info.fit, info.select, info.held_out))
    if used + info.seq_len <= config.tokens:
        there = "" if info.available_tokens is None else f" of the {info.available_tokens} that there are"
        warnings.append(f"{config.tokens} calibration tokens were asked for, and {used}{there} could be used")
    if info.held_out.clusters < FEW_CLUSTERS:
        units = "sequences" if info.unit == "sequence" else "documents, or groups of short ones,"
        warnings.append(
            f"only {info.held_out.clusters} {units} are held out: intervals of fewer than {FEW_CLUSTERS} are wide, and "
            "hold 90 to 99 % rather than 95 %"
        )
    if config.seq_len is None and cut_short(info.seq_len, context):
        longest, tokens = tokens_for_context(context)
        warnings.append(
            f"sequences of {info.seq_len} tokens are short for a context of {context}, and what the network does with "
            f"more is not seen; {tokens} tokens (--tokens) would do for {longest}"
        )
    return warnings
