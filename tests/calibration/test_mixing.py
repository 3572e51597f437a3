import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from peelaudit.calibration import Calibration
from peelaudit.calibration.finding import find_parts
from peelaudit.errors import ConfigError
from peelaudit.records import DataShare
from tests.calibration.support import load, refusal


def write(path: Path, letter: str, count: int = 100, length: int = 40) -> Path:
    """Documents of numbers and one letter."""
    numbers = np.random.default_rng(ord(letter) + length).integers(0, 9999, (count, length))
    texts = [" ".join(f"{letter}{number}" for number in row) for row in numbers]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def mixed(folder: Path, *weighted: str, **settings: object) -> Calibration:
    return load(folder, *[folder / one for one in weighted], seq_len=32, **{"tokens": 6400, **settings})


def origins(calibration: Calibration) -> list[Counter[str]]:
    """How many sequences of each split are of which letter."""
    ids = {"a": 2, "b": 3, "c": 4}
    splits = (calibration.fit, calibration.select, calibration.held_out)
    return [
        Counter({letter: int((split.tokens == number).any(axis=1).sum()) for letter, number in ids.items()})
        for split in splits
    ]


def test_each_split_has_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    for letter in "abc":
        write(tmp_path / f"{letter}.jsonl", letter)
    calibration = mixed(tmp_path, "a.jsonl=7", "b.jsonl=2", "c.jsonl=1")
    for split, counts in zip(
        (calibration.fit, calibration.select, calibration.held_out), origins(calibration), strict=True
    ):
        assert [counts[letter] / len(split.tokens) for letter in "abc"] == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    assert sum(origins(calibration), Counter()).total() == 200


def test_the_record_says_what_was_drawn_from_where(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "b.jsonl", "b", count=60)
    info = mixed(tmp_path, "a.jsonl=0.75", "b.jsonl=0.25").info
    counts = origins(mixed(tmp_path, "a.jsonl=0.75", "b.jsonl=0.25"))
    assert info.shares == (
        DataShare(str(tmp_path / "a.jsonl"), 0.75, 100, *(count["a"] for count in counts)),
        DataShare(str(tmp_path / "b.jsonl"), 0.25, 60, *(count["b"] for count in counts)),
    )
    assert info.source == f"{tmp_path / 'a.jsonl'}=0.75, {tmp_path / 'b.jsonl'}=0.25"
    assert (info.documents, info.unit) == (160, "document")
    assert mixed(tmp_path, "a.jsonl", "b.jsonl").info.shares == ()


def test_weights_may_add_up_to_anything_and_one_alone_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "b.jsonl", "b")
    tokens = [
        mixed(tmp_path, *data).info.tokens_sha256
        for data in (("a.jsonl=3", "b.jsonl=1"), ("a.jsonl=0.75", "b.jsonl=.25"))
    ]
    assert tokens[0] == tokens[1]
    assert mixed(tmp_path, "a.jsonl=0.2").info.tokens_sha256 == mixed(tmp_path, "a.jsonl").info.tokens_sha256


def test_where_one_has_too_little_all_give_less(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "b.jsonl", "b", count=10, length=20)
    calibration = mixed(tmp_path, "a.jsonl=0.5", "b.jsonl=0.5", tokens=64_000)
    counts = sum(origins(calibration), Counter())
    assert counts["a"] == counts["b"] > 10
    assert any("64000 calibration tokens were asked for" in warning for warning in calibration.warnings)


def test_undivided_text_and_token_ids_may_be_portions(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.txt").write_text("\n".join(f"b {number} " * 9 for number in range(2000)))
    np.save(tmp_path / "c.npy", np.random.default_rng(0).integers(5, 60, (300, 40)))
    calibration = mixed(tmp_path, "a.jsonl=0.5", "b.txt=0.25", "c.npy=0.25")
    assert [share.documents for share in calibration.info.shares[:2]] == [100, None]
    drawn = [share.fit + share.select + share.held_out for share in calibration.info.shares]
    assert drawn[0] == 2 * drawn[1] == 2 * drawn[2]
    assert calibration.info.held_out.clusters > 20


def test_a_directory_has_one_weight(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(5):
        write(tmp_path / f"many/{number}.jsonl", "b", count=20, length=40 + 30 * number)
    write(tmp_path / "a.jsonl", "a")
    counts = sum(origins(mixed(tmp_path, "a.jsonl=0.5", "many=0.5")), Counter())
    assert counts["a"] == counts["b"] == 100


def test_a_share_that_is_too_small_for_three_splits_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "b.jsonl", "b")
    data = [tmp_path / "a.jsonl=0.99", tmp_path / "b.jsonl=0.01"]
    message = refusal(tmp_path, *data, seq_len=32, tokens=6400)
    assert message.startswith(f"{tmp_path / 'b.jsonl'}: ")
    assert "documents for a share of 0.01 make 2 groups" in message
    assert message.endswith("three splits need 6, so at least 19200 tokens in all")
    assert refusal(tmp_path, data[0], tmp_path / "b.jsonl=1e-300", seq_len=32).startswith(f"{tmp_path / 'b.jsonl'}: ")


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-inf", "1e999", "0.0"])
def test_a_weight_that_is_none_is_told(tmp_path: Path, weight: str) -> None:
    write(tmp_path / "a.jsonl", "a")
    with pytest.raises(ConfigError, match=f"a.jsonl={weight}': a weight is a number above 0"):
        mixed(tmp_path, f"a.jsonl={weight}")


def test_a_weight_for_some_paths_alone_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "b.jsonl", "b")
    with pytest.raises(ConfigError, match=r"data has weights, and .*b\.jsonl has none"):
        mixed(tmp_path, "a.jsonl=0.5", "b.jsonl")


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "run=3").mkdir()
    plain, odd = write(tmp_path / "run=3/a.jsonl", "a"), tmp_path / "b.jsonl=2"
    odd.mkdir()
    write(odd / "b.jsonl", "b")
    (part,) = find_parts([str(plain), str(odd)], tmp_path)
    assert (part.share, [source.name for source in part.sources]) == (1.0, ["a.jsonl", "b.jsonl"])
    parts = find_parts([f"{plain}=1", f"{odd}=3"], tmp_path)
    assert [(part.name, part.share) for part in parts] == [(str(plain), 0.25), (str(odd), 0.75)]
    assert "a=b.txt: the calibration data can't be read: No such file" in refusal(tmp_path, tmp_path / "a=b.txt")
