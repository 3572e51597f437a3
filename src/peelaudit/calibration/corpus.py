"""What the calibration data hold, file by file and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.calibration.arrays import TokenArrays, Tokens, read_bin, read_npy
from peelaudit.calibration.columns import read_arrow, read_parquet
from peelaudit.calibration.default_text import DEFAULT_SOURCE, default_documents, sha256_of_texts
from peelaudit.calibration.finding import find_sources
from peelaudit.calibration.rows import Chat, Row
from peelaudit.calibration.sources import SourceFile, budgets, printable, sha256_of_files
from peelaudit.calibration.splits import MIN_CLUSTERS
from peelaudit.calibration.texts import Texts, read_jsonl, read_txt
from peelaudit.errors import CalibrationError
from peelaudit.progress import Progress
from peelaudit.records import CheckpointInfo
from peelaudit.settings.audit import AuditConfig

__all__ = ["Corpus", "read_corpus"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was read.

    `documents` are distinct; `divided` says that they are documents, not undivided streams.
    `complete` says that no file was longer than what is read of one. `tokens` counts the ids in the files where all
    hold token ids.
    """

    source: str
    kind: str
    sha256: str
    documents: Sequence[Row | Tokens]
    divided: bool
    complete: bool
    duplicates: int
    tokens: int | None
    warnings: tuple[str, ...]


def read_corpus(config: AuditConfig, checkpoint: CheckpointInfo, progress: Progress) -> Corpus:
    """Read the given files, or those of the fallbacks.

    Raises:
        CalibrationError: a file can't be read, or holds token ids that the model doesn't have.
    """
    sources = find_sources(config.data, Path(checkpoint.path))
    progress.stage("reading calibration data", max(1, len(sources)))
    if not sources:
        return _default_corpus()
    found = []
    for source, budget in zip(sources, budgets(sources, config.tokens), strict=True):
        found.append(_read_file(source, config, checkpoint.vocabulary, budget))
        progress.advance()
    sha256 = sha256_of_files(sources)
    documents, duplicates = _distinct([document for part in found for document in part.documents])
    divided, warnings = _divided(config, sources, found, len(documents))
    totals = [part.total for part in found if isinstance(part, TokenArrays)]
    return Corpus(
        source=printable(", ".join(config.data)) or str(sources[0]),
        kind="+".join(sorted({source.kind for source in sources})),
        sha256=sha256,
        documents=documents,
        divided=divided,
        complete=all(part.complete for part in found),
        duplicates=duplicates,
        tokens=sum(totals) if len(totals) == len(found) else None,
        warnings=warnings,
    )


def _default_corpus() -> Corpus:
    texts = default_documents()
    warning = (
        "no calibration data were given: the verdict is about generic English, the docstrings of Python's standard "
        "library; name text like the model's own with --data"
    )
    documents, duplicates = _distinct([*texts])
    return Corpus(
        source=DEFAULT_SOURCE,
        kind="default",
        sha256=sha256_of_texts(texts),
        documents=documents,
        divided=True,
        complete=True,
        duplicates=duplicates,
        tokens=None,
        warnings=(warning,),
    )


def _read_file(source: SourceFile, config: AuditConfig, vocabulary: int, budget: int) -> Texts | TokenArrays:
    try:
        match source.kind:
            case "txt":
                return read_txt(source, config.separator, budget)
            case "jsonl":
                return read_jsonl(source, config.field, budget)
            case "parquet":
                return read_parquet(source, config.field, budget)
            case "arrow":
                return read_arrow(source, config.field, budget)
            case "bin":
                return read_bin(source, vocabulary, budget)
            case _:
                return read_npy(source, vocabulary, budget)
    except OSError as error:
        raise CalibrationError(f"{source}: the calibration data can't be read: {error.strerror or error}") from error


def _distinct(documents: Sequence[Row | Tokens]) -> tuple[list[Row | Tokens], int]:
    distinct = {_key(document): document for document in documents}
    return list(distinct.values()), len(documents) - len(distinct)


def _key(document: Row | Tokens) -> tuple[str, str | bytes]:
    """The same for equal documents of one kind alone."""
    match document:
        case str():
            return "text", document
        case Chat():
            return "chat", document.key()
        case _:
            return "tokens", document.tobytes()


def _divided(
    config: AuditConfig, sources: Sequence[SourceFile], found: Sequence[Texts | TokenArrays], documents: int
) -> tuple[bool, tuple[str, ...]]:
    """Whether the splits go by document, and what to say of it."""
    warnings = [
        f"{source}: only the beginning of its {source.bytes} bytes was considered"
        for source, part in zip(sources, found, strict=True)
        if not part.complete
    ]
    warnings += [
        f"{source}: the token {part.padding} at the end of its rows is taken for padding and left out"
        for source, part in zip(sources, found, strict=True)
        if isinstance(part, TokenArrays) and part.padding is not None
    ]
    named = any(part.divided for part in found)
    if config.separator is not None and not named:
        warnings.append(f"the separator {config.separator!r} does not occur: the text is taken as undivided")
    if documents < MIN_CLUSTERS and (named or documents > 1):
        warnings.append(
            f"{documents} documents are too few to keep apart in three splits and were split by sequence: a document "
            "may be both fitted to and held out, so that held-out figures may be too good"
        )
    return documents >= MIN_CLUSTERS, tuple(warnings)
