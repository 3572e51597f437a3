"""Directories as `datasets` lays them out: `save_to_disk` of version 5.2, and its cache."""

import json
from pathlib import Path

import pytest

from peelaudit.calibration.finding import find_parts
from tests.calibration.files import documents, write_arrow
from tests.calibration.support import load, refusal


def save(folder: Path, *shards: list[str]) -> Path:
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        write_arrow(folder / name, text=texts)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string"}}}))
    return folder


def save_dict(folder: Path, *splits: str) -> Path:
    folder.mkdir(parents=True)
    for number, split in enumerate(splits):
        save(folder / split, documents()[20 * number : 20 * (number + 1)])
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return folder


def names(path: Path) -> list[str]:
    return [source.name for source in find_parts([str(path)], path)[0].sources]


def test_the_files_of_a_dataset_are_read_in_its_order(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", documents()[:15], documents()[15:])
    (folder / "cache-0123.arrow").write_bytes(b"another dataset")
    info = load(tmp_path, folder).info
    assert (info.kind, info.documents, info.source) == ("arrow", 40, str(folder))
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": state["_data_files"][::-1]}))
    assert names(folder) == ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]


def test_one_of_several_splits_is_to_be_named(tmp_path: Path) -> None:
    folder = save_dict(tmp_path / "data", "train", "test")
    which = f"the dataset has the splits train, test; name one, as {folder / 'train'}"
    assert refusal(tmp_path, folder) == f"{folder}: {which}"
    assert load(tmp_path, folder / "train", tokens=1024).info.documents == 20
    assert "has no split" in refusal(tmp_path, save_dict(tmp_path / "none" / "of"))


def test_the_only_split_is_taken_and_datasets_in_a_directory_are_found(tmp_path: Path) -> None:
    save_dict(tmp_path / "data/a", "train")
    save(tmp_path / "data/b", documents()[20:])
    (tmp_path / "data/c.txt").write_text("text")
    assert names(tmp_path / "data") == ["a/train/data-00000-of-00001.arrow", "b/data-00000-of-00001.arrow", "c.txt"]


def test_a_directory_of_the_cache_has_a_split_by_name(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    for name in ("my-corpus-train-00000-of-00002", "my-corpus-train-00001-of-00002", "cache-12ab"):
        write_arrow(tmp_path / f"{name}.arrow", text=documents(5))
    assert names(tmp_path) == ["my-corpus-train-00000-of-00002.arrow", "my-corpus-train-00001-of-00002.arrow"]
    write_arrow(tmp_path / "my-corpus-test.arrow", text=documents(5))
    first = tmp_path / "my-corpus-test.arrow"
    assert refusal(tmp_path, tmp_path) == f"{tmp_path}: the dataset has the splits test, train; name one, as {first}"


def test_a_description_without_arrow_files_is_a_directory_like_any(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "a.txt").write_text("text")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("state", "defect"),
    [
        ("{", "the dataset's description can't be read"),
        ("[" * 100_000, "the dataset's description can't be read"),
        ("[]", "expected `_data_files`"),
        ('{"_data_files": 3}', "expected `_data_files`"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "expected `_data_files`"),
        ('{"_data_files": [{"filename": "/etc/passwd"}]}', "expected `_data_files`"),
        ('{"_data_files": [{"filename": 3}, "x"]}', "expected `_data_files`"),
        ('{"_data_files": []}', "the dataset has no file, and so no row"),
        (
            '{"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{}]}',
            "save what flatten_indices() gives",
        ),
        ('{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow: the calibration data can't be read: No such file"),
    ],
)
def test_a_damaged_description_is_told(tmp_path: Path, state: str, defect: str) -> None:
    (folder := tmp_path / "data").mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(state)
    assert defect in refusal(tmp_path, folder)


@pytest.mark.parametrize("splits", ["3", '["../x"]', '["."]', "[3]", '{"a": 1}'])
def test_damaged_splits_are_told(tmp_path: Path, splits: str) -> None:
    (tmp_path / "dataset_dict.json").write_text(f'{{"splits": {splits}}}')
    assert "dataset_dict.json: expected a list of the dataset's splits" in refusal(tmp_path, tmp_path)


def test_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert refusal(tmp_path, tmp_path) == f"{tmp_path / 'train'}: the dataset's split isn't there"
