"""How the tests themselves are laid out: by the modules, and what several of them need beside them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.places import ROOT

TESTS, SOURCE = ROOT / "tests", ROOT / "src/peelaudit"


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports by name, and what it takes from others as if that were one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_of_a_test(name: str) -> bool:
    return any(part.startswith("test_") for part in name.split("."))


def test_no_module_imports_a_test() -> None:
    """Its tests would be collected twice, and what is shared would be found by nobody."""
    names = {
        (path, name) for folder in (TESTS, ROOT / "bench") for path in folder.rglob("*.py") for name in imported(path)
    }
    assert any(name.startswith("tests.") for _, name in names)
    assert [(path, name) for path, name in names if is_of_a_test(name)] == []


def test_an_import_of_a_test_is_seen(tmp_path: Path) -> None:
    lines = (
        "from tests.cli import test_news as news",
        "from tests.cli.test_news import told",
        "import tests.test_docs",
    )
    for line in lines:
        (tmp_path / "a.py").write_text(f"def later() -> None:\n    {line}\n")
        assert any(map(is_of_a_test, imported(tmp_path / "a.py")))


def test_the_rooms_are_those_of_the_package() -> None:
    rooms = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {
        Path(),
        Path("bench"),
        Path("hostile"),
    }
    assert len(rooms) > 10
    assert [room for room in rooms if not (SOURCE / room).is_dir()] == []
