"""Where unfinished results lie: what isn't whole, one's own and a file is as if it weren't there."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from peelaudit.auditing import caching
from peelaudit.auditing.caching import Cache, Resumption
from peelaudit.errors import ConfigError

KEY, OTHER, THIRD = (digit * 32 for digit in "abc")


def test_what_was_kept_is_read_back_as_it_was(tmp_path: Path) -> None:
    folder = Cache(tmp_path / "some/where").folder(KEY)
    assert folder.read("x") is None
    assert folder.write("x", "a text,\nof two lines: é\n")
    assert folder.write("y", "")
    assert folder.read("x") == "a text,\nof two lines: é\n"
    assert folder.read("y") == ""
    assert Cache(tmp_path / "some/where").folder(OTHER).read("x") is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 100)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


def a_link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_linked_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_suffix(".other"))
    path.parent.symlink_to(path.parent.with_suffix(".other"))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "spoil",
    [cut, emptied, flipped, not_text, a_pipe, a_link, a_link_to_a_device, a_directory, a_linked_folder],
)
def test_row_62_what_is_damaged_or_no_file_is_as_if_it_were_not_there(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = Cache(tmp_path).folder(KEY)
    folder.write("x", "some text")
    spoil(tmp_path / KEY / "x.json")
    assert folder.read("x") is None
    written = folder.write("x", "another text")
    assert written == (folder.read("x") == "another text")
    assert written or spoil in (a_directory, a_linked_folder)


def test_row_62_another_users_is_as_if_it_were_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Cache(tmp_path).folder(KEY)
    folder.write("x", "some text")
    monkeypatch.setattr(caching.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)  # noqa: PTH116
    assert folder.read("x") is None
    assert not folder.write("x", "another")


def test_nobody_else_may_look(tmp_path: Path) -> None:
    Cache(tmp_path).folder(KEY).write("x", "some text")
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / KEY / "x.json").stat().st_mode) == 0o600


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = Cache(tmp_path / "file").folder(KEY)
    assert not folder.write("x", "some text")
    assert folder.read("x") is None
    folder.remove()


def test_the_oldest_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=4000)
    for age, key in enumerate((KEY, OTHER)):
        cache.folder(key).write("x", "a" * 1000)
        os.utime(tmp_path / key, (age, age))
    assert list(cache.audits().values()) == [1065, 1065]
    assert cache.folder(THIRD).write("x", "a" * 2500)
    assert [path.name for path in cache.audits()] == [OTHER, THIRD]


def test_one_audit_does_not_pass_the_limit_by_itself(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=2000)
    folder = cache.folder(KEY)
    assert [folder.write(str(number), "a" * 500) for number in range(5)] == [True] * 3 + [False] * 2
    assert sum(cache.audits().values()) <= 2000
    assert folder.read("0") == "a" * 500


def test_clearing_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for key in (KEY, OTHER):
        cache.folder(key).write("x", "some text")
    (tmp_path / "cache/notes").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").touch()
    (tmp_path / "cache" / THIRD).symlink_to(tmp_path / "elsewhere")
    cache.clear()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [THIRD, "notes"]
    assert (tmp_path / "elsewhere/file").exists()


def test_many_may_write_and_remove_the_same(tmp_path: Path) -> None:
    text, seen = "a" * 100_000, set[str | None]()

    def work() -> None:
        folder = Cache(tmp_path).folder(KEY)
        for number in range(30):
            folder.write("x", text)
            seen.add(folder.read("x"))
            if number % 7 == 0:
                folder.remove()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert text in seen
    assert seen <= {text, None}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PEELAUDIT_CACHE": "/a", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/peelaudit"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/peelaudit"),
        ({"HOME": "/h"}, "/h/.cache/peelaudit"),
        ({"USERPROFILE": "/h"}, "/h/.cache/peelaudit"),
    ],
)
def test_the_directory_is_where_caches_are(
    environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching.sys, "platform", "linux")
    cache = Cache.found(environ)
    assert cache is not None
    assert cache.root == Path(expected)
    assert cache.patience_s == 60


def test_macos_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.sys, "platform", "darwin")
    cache = Cache.found({"HOME": "/h"})
    assert cache is not None
    assert cache.root == Path("/h/Library/Caches/peelaudit")


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_without_a_place_there_is_none(home: dict[str, str]) -> None:
    assert Cache.found(home) is None


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_a_patience_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"PEELAUDIT_RESUME_AFTER is '{text}': expected seconds"):
        Cache.found({"PEELAUDIT_RESUME_AFTER": text, "HOME": "/h"})


def test_short_audits_are_not_worth_it(tmp_path: Path) -> None:
    assert not Resumption().worth_it
    assert not Resumption(Cache(tmp_path)).worth_it
    assert Resumption(Cache(tmp_path, patience_s=0)).worth_it
