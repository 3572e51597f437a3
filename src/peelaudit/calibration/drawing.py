"""From documents to clusters of dense sequences: what is drawn, how long they are, what is never drawn twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from peelaudit.calibration.arrays import Tokens

__all__ = [
    "Cluster",
    "Document",
    "Drawn",
    "choose_seq_len",
    "cut_short",
    "draw_documents",
    "draw_streams",
    "drop_repeated",
    "tokens_for_context",
]

Document = str | Tokens
"""A text, or token ids."""

Encode = Callable[[Document, int], Tokens]
"""The first so many ids of a document."""

MIN_SEQ_LEN = 32
MAX_SEQ_LEN = 2048
"""What most networks of more context were trained with first; the logits of one sequence have to fit in memory."""
GOOD_SEQUENCES = 128
"""A quarter of them held out are 32, over the 20 that intervals need by enough for the text of several documents."""
SHORT_OF_CONTEXT = 4
"""Over how many times a sequence's length the context, as far as sequences go, has to be for that to be said."""
LONG_CONTEXT, LEAST_OF_LONG, FEW_SEQUENCES = 2048, 128, 32
"""A network of so much context is given so many positions at least, as long as the tokens hold this many sequences: on
fewer it loses what says nothing of it."""
GOOD_CLUSTERS = 80
"""With a quarter of them held out, that makes 20 there: with fewer, intervals are wide."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the splits and the bootstrap keep together: [sequences, positions], from so many documents."""

    sequences: Tokens
    documents: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """`tokens` counts all that were met; `exhausted` says that these were all there are."""

    clusters: list[Cluster]
    tokens: int
    exhausted: bool

    @property
    def sequences(self) -> int:
        """How many sequences the clusters hold together."""
        return sum(len(cluster.sequences) for cluster in self.clusters)


def choose_seq_len(tokens: int, context: int) -> int:
    """The largest power of two of which `tokens` hold 128, but within 32 ... 2048 and the model's context.

    Where that is 2048 or more, up to 128 positions 32 sequences do.
    """
    length = MIN_SEQ_LEN
    while 2 * length <= MAX_SEQ_LEN:
        few = context >= LONG_CONTEXT and 2 * length <= LEAST_OF_LONG
        if 2 * length * (FEW_SEQUENCES if few else GOOD_SEQUENCES) > tokens:
            break
        length *= 2
    while length > context:
        length //= 2
    return length


def cut_short(seq_len: int, context: int) -> bool:
    """Whether sequences have less than a quarter of what the network could see, or of 2048."""
    return SHORT_OF_CONTEXT * seq_len < tokens_for_context(context)[0]


def tokens_for_context(context: int) -> tuple[int, int]:
    """The longest sequence that `choose_seq_len` gives for a context, and the tokens that it takes."""
    length = choose_seq_len(MAX_SEQ_LEN * GOOD_SEQUENCES, context)
    return length, length * GOOD_SEQUENCES


def draw_documents(
    documents: Sequence[Document], encode: Encode, *, seq_len: int, wanted: int, order: Sequence[int]
) -> Drawn:
    """Draw documents in `order` until they give `wanted` sequences.

    Consecutive documents are joined until they hold `seq_len` tokens; such a group is a cluster, cut into whole
    sequences; what is left of it is dropped. A cluster gives few sequences at first, one in 80 of those wanted, so that
    they come from many documents; where the documents run out, all give more, as evenly as they can.
    """
    limit = max(1, wanted // GOOD_CLUSTERS)
    known: dict[int, Tokens] = {}
    drawn = _gather(documents, encode, known, seq_len=seq_len, limit=limit, order=order, stop=wanted)
    while drawn.sequences < wanted and not drawn.exhausted:
        limit *= 4
        drawn = _gather(documents, encode, known, seq_len=seq_len, limit=limit, order=order, stop=None)
    return Drawn(_level(drawn.clusters, wanted), drawn.tokens, drawn.exhausted)


def _gather(
    documents: Sequence[Document],
    encode: Encode,
    known: dict[int, Tokens],
    *,
    seq_len: int,
    limit: int,
    order: Sequence[int],
    stop: int | None,
) -> Drawn:
    """One pass. `known` keeps the ids of documents that were encoded to their end, for the next pass."""
    clusters: list[Cluster] = []
    group: list[Tokens] = []
    tokens, sequences, held, exhausted = 0, 0, 0, True
    most = limit * seq_len
    for index in order:
        if stop is not None and sequences >= stop:
            return Drawn(clusters, tokens, exhausted=False)
        ids = known[index][:most] if index in known else encode(documents[index], most)
        if ids.size < most:
            known[index] = ids
        exhausted = exhausted and ids.size < most
        tokens += ids.size
        group.append(ids)
        held += ids.size
        if (count := min(held // seq_len, limit)) > 0:
            clusters.append(Cluster(np.concatenate(group)[: count * seq_len].reshape(count, seq_len), len(group)))
            sequences += count
            group, held = [], 0
    return Drawn(clusters, tokens, exhausted)


def _level(clusters: list[Cluster], wanted: int) -> list[Cluster]:
    """Cut the clusters to `wanted` sequences: the largest give first, and the last of equals."""
    sizes = np.array([len(cluster.sequences) for cluster in clusters], dtype=np.int64)
    if sizes.sum() <= wanted:
        return clusters
    level = int(sizes.max())
    while np.minimum(sizes, level - 1).sum() >= wanted:
        level -= 1
    kept = np.minimum(sizes, level)
    excess = int(kept.sum()) - wanted
    if excess:
        kept[np.flatnonzero(kept == level)[-excess:]] -= 1
    return [
        Cluster(cluster.sequences[:count], cluster.documents)
        for cluster, count in zip(clusters, kept.tolist(), strict=True)
        if count
    ]


def draw_streams(streams: Sequence[Document], encode: Encode, *, seq_len: int, wanted: int) -> Drawn:
    """Draw `wanted` sequences, each a cluster of its own, from undivided streams, by their lengths.

    They begin at evenly spaced places (in a text: where a line begins), so that they speak for the whole of it and
    neighbours are far apart. Where there is hardly more than what is wanted, a stream is cut without gaps instead. No
    sequence spans two streams.
    """
    total = sum(len(stream) for stream in streams)
    parts = [
        _draw_stream(stream, encode, seq_len=seq_len, wanted=-(-wanted * len(stream) // total)) for stream in streams
    ]
    rows = [row for part in parts for cluster in part.clusters for row in cluster.sequences]
    return Drawn(
        [Cluster(row[np.newaxis], 0) for row in rows[:wanted]],
        sum(part.tokens for part in parts),
        all(part.exhausted for part in parts),
    )


def _draw_stream(stream: Document, encode: Encode, *, seq_len: int, wanted: int) -> Drawn:
    segments = _segments(stream, wanted)
    drawn = _gather(segments, encode, {}, seq_len=seq_len, limit=1, order=range(len(segments)), stop=None)
    if drawn.sequences >= wanted:
        return drawn
    return _gather([stream], encode, {}, seq_len=seq_len, limit=wanted, order=[0], stop=None)


def _segments(stream: Document, count: int) -> list[Document]:
    """`stream` in `count` parts of about one length. A text is parted after lines, or after words in long lines."""
    bounds = [index * len(stream) // count for index in range(count + 1)]
    if isinstance(stream, str):
        starts = (_after_break(stream, start, end) for start, end in pairwise(bounds))
        bounds = sorted({0, *starts, len(stream)})
    return [stream[start:end] for start, end in pairwise(bounds) if end > start]


def _after_break(text: str, start: int, end: int) -> int:
    if start == 0:
        return 0
    return text.find("\n", start - 1, end) + 1 or text.find(" ", start, end) + 1 or start


def drop_repeated(portions: Sequence[Sequence[Cluster]]) -> tuple[list[list[Cluster]], int]:
    """Without the sequences that repeat an earlier one token for token, and how many these were.

    One of the two could be fitted to and the other held out.
    """
    seen: set[bytes] = set()
    kept: list[list[Cluster]] = []
    repeated = 0
    for clusters in portions:
        kept.append([])
        for cluster in clusters:
            rows = []
            for row, key in enumerate(sequence.tobytes() for sequence in cluster.sequences):
                if key not in seen:
                    seen.add(key)
                    rows.append(row)
            repeated += len(cluster.sequences) - len(rows)
            if rows:
                kept[-1].append(Cluster(cluster.sequences[rows], cluster.documents))
    return kept, repeated
