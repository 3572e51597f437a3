"""What the calibration data hold, file by file and together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from peelaudit.calibration.arrays import TokenArrays, Tokens, read_bin, read_npy
from peelaudit.calibration.columns import read_arrow, read_parquet
from peelaudit.calibration.default_text import DEFAULT_SOURCE, default_documents, sha256_of_texts
from peelaudit.calibration.finding import Part, find_parts
from peelaudit.calibration.rows import Chat, Row
from peelaudit.calibration.sources import SourceFile, budgets, sha256_of_files
from peelaudit.calibration.splits import MIN_CLUSTERS
from peelaudit.calibration.texts import Texts, read_json, read_jsonl, read_txt
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable
from peelaudit.progress import Progress
from peelaudit.records import CheckpointInfo
from peelaudit.settings.audit import AuditConfig

__all__ = ["Corpus", "Portion", "distinct", "read_corpus"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Portion(Generic[T]):
    """What one part of the files holds, to give its share of the tokens.

    `documents` are distinct, from those of other portions too; `divided` says that they are documents, not undivided
    streams.
    """

    name: str
    share: float
    documents: Sequence[T]
    divided: bool


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was read.

    `complete` says that no file was longer than what is read of one. `tokens` counts the ids in the files where all
    hold token ids. `sources` are the files, none for the built-in text.
    """

    source: str
    kind: str
    sha256: str
    portions: tuple[Portion[Row | Tokens], ...]
    complete: bool
    duplicates: int
    tokens: int | None
    warnings: tuple[str, ...]
    sources: tuple[SourceFile, ...] = ()

    @property
    def documents(self) -> int | None:
        """How many there are; None where everything is undivided."""
        counts = [len(portion.documents) for portion in self.portions if portion.divided]
        return sum(counts) if counts else None


def read_corpus(config: AuditConfig, checkpoint: CheckpointInfo, progress: Progress) -> Corpus:
    """Read the given files, or those of the fallbacks.

    Raises:
        CalibrationError: a file can't be read, or holds token ids that the model doesn't have.
        ConfigError: the weights that are given with the files aren't weights.
    """
    parts = find_parts(config.data, Path(checkpoint.path))
    sources = [source for part in parts for source in part.sources]
    progress.stage("reading calibration data", max(1, len(sources)))
    if not sources:
        return _default_corpus()
    found = [_read_part(part, config, checkpoint.vocabulary, 1 / len(parts), progress) for part in parts]
    every = [one for files in found for one in files]
    sha256 = sha256_of_files(sources)
    kept = distinct([[document for file in files for document in file.documents] for files in found])
    portions = [
        Portion(part.name, part.share, documents, divided=len(documents) >= MIN_CLUSTERS)
        for part, documents in zip(parts, kept, strict=True)
    ]
    totals = [file.total for file in every if isinstance(file, TokenArrays)]
    return Corpus(
        source=printable(", ".join(config.data)) or str(sources[0]),
        kind="+".join(sorted({source.kind for source in sources})),
        sha256=sha256,
        portions=tuple(portions),
        complete=all(file.complete for file in every),
        duplicates=sum(len(file.documents) for file in every) - sum(map(len, kept)),
        tokens=sum(totals) if len(totals) == len(every) else None,
        warnings=(*_file_warnings(config, sources, every), *_portion_warnings(portions, found)),
        sources=tuple(sources),
    )


def _read_part(
    part: Part, config: AuditConfig, vocabulary: int, share: float, progress: Progress
) -> list[Texts | TokenArrays]:
    """A part's files, read as far as a pool goes of which it has its share, and no less than an equal one."""
    found = []
    pool = budgets(part.sources, config.tokens, max(share, part.share))
    for source, budget in zip(part.sources, pool, strict=True):
        found.append(_read_file(source, config, vocabulary, budget))
        progress.advance()
    return found


def _default_corpus() -> Corpus:
    texts = default_documents()
    warning = (
        "no calibration data were given: the verdict is about generic English, the docstrings of Python's standard "
        "library; name text like the model's own with --data"
    )
    (documents,) = distinct([texts])
    return Corpus(
        source=DEFAULT_SOURCE,
        kind="default",
        sha256=sha256_of_texts(texts),
        portions=(Portion(DEFAULT_SOURCE, 1.0, documents, divided=True),),
        complete=True,
        duplicates=len(texts) - len(documents),
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
            case "json":
                return read_json(source, config.field, budget)
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


def distinct(portions: Sequence[Sequence[Row | Tokens]]) -> list[list[Row | Tokens]]:
    """Without the documents that are equal to an earlier one, of whichever portion."""
    seen: set[tuple[str, str | bytes]] = set()
    kept = []
    for documents in portions:
        distinct = {key: one for one in documents if (key := _key(one)) not in seen}
        seen.update(distinct)
        kept.append(list(distinct.values()))
    return kept


def _key(document: Row | Tokens) -> tuple[str, str | bytes]:
    """The same for equal documents of one kind alone."""
    match document:
        case str():
            return "text", document
        case Chat():
            return "chat", document.key()
        case _:
            return "tokens", document.tobytes()


def _file_warnings(
    config: AuditConfig, sources: Sequence[SourceFile], found: Sequence[Texts | TokenArrays]
) -> list[str]:
    """What to say of how single files were read."""
    warnings = [
        f"{source}: only the beginning of its {source.bytes} bytes was considered"
        for source, file in zip(sources, found, strict=True)
        if not file.complete
    ]
    warnings += [
        f"{source}: the token {file.padding} at the end of its rows is taken for padding and left out"
        for source, file in zip(sources, found, strict=True)
        if isinstance(file, TokenArrays) and file.padding is not None
    ]
    if config.separator is not None and not any(file.divided for file in found):
        warnings.append(f"the separator {config.separator!r} does not occur: the text is taken as undivided")
    return warnings


def _portion_warnings(
    portions: Sequence[Portion[Row | Tokens]], found: Sequence[Sequence[Texts | TokenArrays]]
) -> Iterator[str]:
    """Which portions have documents, and too few to keep them apart."""
    for portion, files in zip(portions, found, strict=True):
        count = len(portion.documents)
        if not portion.divided and (count > 1 or any(file.divided for file in files)):
            whose = f"{portion.name}: " if len(portions) > 1 else ""
            yield (
                f"{whose}{count} documents are too few to keep apart in three splits and were split by sequence: a "
                "document may be both fitted to and held out, so that held-out figures may be too good"
            )
