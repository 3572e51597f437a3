import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peelaudit.calibration import Calibration
from peelaudit.calibration.drawing import choose_seq_len, draw_documents, draw_streams
from peelaudit.calibration.splits import MIN_CLUSTERS, assign
from peelaudit.errors import ConfigError
from tests.calibration.support import load, refusal

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=60)
SHARES = st.sampled_from([(0.6, 0.15, 0.25), (0.34, 0.33, 0.33), (0.9, 0.05, 0.05)])


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose every token says which document it is from and where it stood."""
    return [1000 * number + np.arange(length, dtype=np.int64) for number, length in enumerate(lengths)]


def draw(lengths: list[int], seq_len: int, wanted: int, seed: int = 0):
    order = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    documents = numbered(lengths)
    return draw_documents(documents, lambda ids, n: ids[:n], seq_len=seq_len, wanted=wanted, order=order)


@given(LENGTHS, st.integers(2, 64), st.integers(1, 60), st.integers(0, 9))
def test_clusters_are_dense_share_no_document_and_keep_its_order(
    lengths: list[int], seq_len: int, wanted: int, seed: int
) -> None:
    drawn = draw(lengths, seq_len, wanted, seed)
    assert drawn.sequences <= wanted
    owners: Counter[int] = Counter()
    for cluster in drawn.clusters:
        assert cluster.sequences.shape[1] == seq_len
        tokens = cluster.sequences.ravel()
        owners.update(set((tokens // 1000).tolist()))
        for number in set((tokens // 1000).tolist()):
            mine = tokens[tokens // 1000 == number] % 1000
            assert mine.tolist() == list(range(len(mine)))
    assert set(owners.values()) <= {1}
    if drawn.sequences < wanted:
        assert drawn.exhausted
        assert drawn.tokens == sum(lengths)


@given(LENGTHS, st.integers(2, 64), st.integers(1, 60))
def test_no_document_gives_more_than_it_must(lengths: list[int], seq_len: int, wanted: int) -> None:
    clusters = draw(lengths, seq_len, wanted).clusters
    sizes = [len(cluster.sequences) for cluster in clusters]
    everything = [len(cluster.sequences) for cluster in draw(lengths, seq_len, 10**6).clusters]
    fewer = sum(min(size, max(sizes, default=0) - 1) for size in everything)
    assert fewer < sum(sizes) or not sizes, "all could have given one sequence less"


@given(st.lists(st.integers(1, 9), min_size=MIN_CLUSTERS, max_size=80), SHARES, st.integers(0, 9))
def test_clusters_go_whole_to_one_split_and_shares_come_near(
    sizes: list[int], shares: tuple[float, float, float], seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    splits = assign(sizes, shares, order)
    assert sorted(itertools.chain(*splits)) == list(range(len(sizes)))
    assert min(map(len, splits)) >= 2
    for share, split in zip(shares, splits, strict=True):
        held = sum(sizes[index] for index in split)
        enough = min(shares) * len(sizes) >= 2 * max(sizes)
        assert abs(held - share * sum(sizes)) <= (1 if enough else 5) * max(sizes)
    assert assign(sizes, shares, order) == splits


@given(st.integers(1, 3000), st.integers(2, 64), st.integers(1, 40))
def test_streams_give_whole_sequences_in_place(length: int, seq_len: int, wanted: int) -> None:
    stream = np.arange(length, dtype=np.int64)
    drawn = draw_streams([stream], lambda ids, n: ids[:n], seq_len=seq_len, wanted=wanted)
    assert drawn.sequences == min(wanted, length // seq_len)
    for cluster in drawn.clusters:
        assert cluster.sequences.shape == (1, seq_len)
        assert (np.diff(cluster.sequences) == 1).all()
    starts = [int(cluster.sequences[0, 0]) for cluster in drawn.clusters]
    assert all(later - earlier >= seq_len for earlier, later in itertools.pairwise(starts))


@pytest.mark.parametrize(
    ("tokens", "context", "expected"),
    [
        (16_384, 512, 128),
        (16_383, 512, 64),
        (16_383, 2048, 128),
        (4_096, 2048, 128),
        (4_095, 2048, 64),
        (2_047, 2048, 32),
        (4_096, 2047, 32),
        (65_536, 4096, 512),
        (262_144, 4096, 2048),
        (10**9, 4096, 2048),
        (10**9, 300, 256),
        (100, 512, 32),
        (100, 20, 16),
    ],
)
def test_sequence_length_by_tokens_and_context(tokens: int, context: int, expected: int) -> None:
    assert choose_seq_len(tokens, context) == expected


def texts(folder: Path, count: int, words: int = 30) -> Path:
    rng = np.random.default_rng(count)
    numbers = rng.integers(0, 10**6, (count, words))
    (path := folder / f"{count}.txt").write_text(
        "\f".join(f"d{n} " + " ".join(map(str, row)) for n, row in enumerate(numbers))
    )
    return path


def same(one: Calibration, other: Calibration) -> bool:
    return one.info.tokens_sha256 == other.info.tokens_sha256


def test_splits_depend_on_the_seed_alone(tmp_path: Path) -> None:
    path = texts(tmp_path, 100)
    assert same(load(tmp_path, path), load(tmp_path, path))
    assert not same(load(tmp_path, path), load(tmp_path, path, seed=1))


def test_the_record_matches_the_arrays(tmp_path: Path) -> None:
    calibration = load(tmp_path, texts(tmp_path, 200), tokens=16_384)
    info = calibration.info
    assert info.seq_len == 128
    for split, record in (
        (calibration.fit, info.fit),
        (calibration.select, info.select),
        (calibration.held_out, info.held_out),
    ):
        assert split.tokens.dtype == split.clusters.dtype == np.int64
        assert split.tokens.shape == (record.sequences, 128)
        assert record.predicted_tokens == record.sequences * 127
        assert record.tokens == split.tokens.size
        assert np.unique(split.clusters).tolist() == list(range(record.clusters))
        assert (np.diff(split.clusters) >= 0).all()
        assert record.documents is not None
        assert record.documents >= record.clusters
    assert [info.fit.sequences, info.select.sequences, info.held_out.sequences] == [77, 19, 32]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text("abc ", min_size=20, max_size=300), min_size=8, max_size=40), st.integers(0, 3))
def test_no_sequence_stands_in_two_splits(tmp_path: Path, documents: list[str], seed: int) -> None:
    text = "\f".join(f"{number} {document}" for number, document in enumerate(documents * 2))
    (path := tmp_path / "a.txt").write_text(text)
    calibration = load(tmp_path, path, seed=seed, tokens=1500, seq_len=16)
    rows = [
        row.tobytes() for split in (calibration.fit, calibration.select, calibration.held_out) for row in split.tokens
    ]
    assert len(rows) == len(set(rows))


def test_exact_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    path = texts(tmp_path, 60)
    expected = load(tmp_path, path)
    path.write_text("\f".join([path.read_text()] * 3))
    repeated = load(tmp_path, path)
    assert (repeated.info.documents, repeated.info.duplicate_documents) == (60, 120)
    assert same(repeated, expected)


def test_one_giant_document_is_not_a_whole_split(tmp_path: Path) -> None:
    path = texts(tmp_path, 100)
    path.write_text(path.read_text() + "\f" + " ".join(str(n) for n in range(100_000)))
    calibration = load(tmp_path, path)
    largest = max(np.bincount(split.clusters).max() for split in (calibration.fit, calibration.held_out))
    assert largest == 1


def test_too_few_documents_are_split_by_sequence_and_it_is_said(tmp_path: Path) -> None:
    calibration = load(tmp_path, texts(tmp_path, 3, words=400))
    assert calibration.info.unit == "sequence"
    assert any("3 documents are too few" in warning for warning in calibration.warnings)


def test_too_few_tokens_say_how_many_there_are_and_are_needed(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text("only a few words")
    defect = "16 tokens of undivided text make 0 different sequences of 32; three splits need 6, so at least 192 tokens"
    assert refusal(tmp_path, path) == f"{path}: {defect}"
    message = refusal(tmp_path, texts(tmp_path, 10, words=2))
    assert re.search(r"\d+ tokens of 10 documents make \d groups of documents with 32 tokens", message)


def test_less_than_asked_for_is_a_warning_and_shortens_the_sequences(tmp_path: Path) -> None:
    calibration = load(tmp_path, texts(tmp_path, 40), tokens=100_000)
    info = calibration.info
    assert info.seq_len == 64
    used = info.fit.tokens + info.select.tokens + info.held_out.tokens
    expected = f"100000 calibration tokens were asked for, and {used} of the {info.available_tokens} that there are"
    assert any(warning.startswith(expected) for warning in calibration.warnings)


def test_few_held_out_clusters_are_a_warning(tmp_path: Path) -> None:
    calibration = load(tmp_path, texts(tmp_path, 30))
    assert any("intervals of fewer than 20 are wide" in warning for warning in calibration.warnings)
    assert load(tmp_path, texts(tmp_path, 200), tokens=8192, context=128).warnings == ()


@pytest.mark.parametrize(
    ("context", "settings", "length", "told"),
    [
        (4096, {}, 128, "262144 tokens (--tokens) would do for 2048"),
        (512, {}, 64, "65536 tokens (--tokens) would do for 512"),
        (256, {}, 64, None),
        (4096, {"seq_len": 64}, 64, None),
    ],
)
def test_sequences_far_shorter_than_the_context_are_a_warning(
    tmp_path: Path, context: int, settings: dict[str, int], length: int, told: str | None
) -> None:
    calibration = load(tmp_path, texts(tmp_path, 200), tokens=8192, context=context, **settings)
    assert calibration.info.seq_len == length
    found = [warning for warning in calibration.warnings if "short for a context" in warning]
    assert len(found) == (told is not None)
    assert all(one.startswith(f"sequences of {length} tokens are short") and one.endswith(told) for one in found)


def test_settings_that_cannot_work_are_named_before_anything_is_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    with pytest.raises(ConfigError, match="seq-len is 1024: the model's context is 512; tokens is 2048"):
        load(tmp_path, missing, seq_len=1024)
    with pytest.raises(ConfigError, match="tokens is 100: three splits need 6 sequences of 32, 192 tokens"):
        load(tmp_path, missing, tokens=100)
    assert "a context of 1 leaves no token to predict" in refusal(tmp_path, missing, context=1)
