"""Every row of the list has a test that names it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.hostile.rows import ROWS
from tests.places import ROOT

NAME = re.compile(r"^rows?[ _](\d+(?:[ _]and[ _]\d+)*)")


def named(path: Path) -> set[int]:
    """The rows in the names of a file's tests, and in the ids of their parameters, which begin so."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_row"):
            text = node.name.removeprefix("test_")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if match := NAME.match(text):
            found |= {int(number) for number in re.findall(r"\d+", match[1])}
    return found


def test_every_row_has_a_test_that_names_it_and_no_test_another() -> None:
    found = {row for path in (ROOT / "tests").rglob("test_*.py") for row in named(path)}
    assert found == ROWS.keys()


def test_what_a_test_names(tmp_path: Path) -> None:
    (path := tmp_path / "test_a.py").write_text(
        'def test_rows_41_and_88_a_link() -> None: ...\ndef test_row_3() -> None: "in row 7"\nX = ("row 1, empty",)\n'
    )
    assert named(path) == {1, 3, 41, 88}
