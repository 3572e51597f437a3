"""The text of last resort: the docstrings of Python's own standard library, which every installation has."""

from __future__ import annotations

import ast
import hashlib
import platform
import sys
import sysconfig
import warnings
from pathlib import Path

from peelaudit.errors import CalibrationError

__all__ = ["DEFAULT_SOURCE", "default_documents", "sha256_of_texts"]

DEFAULT_SOURCE = f"built-in: docstrings of Python {platform.python_version()}'s standard library"

_MAX_CHARACTERS = 1_500_000
_MAX_FILE_BYTES = 400_000
_MIN_CHARACTERS = 400
_SKIPPED = frozenset({"antigravity", "idlelib", "lib2to3", "test", "this", "turtledemo"})


def default_documents() -> list[str]:
    """One document a module, in the order of the modules' names. The files are parsed, never imported.

    Raises:
        CalibrationError: this Python has no readable standard library (a frozen application, for instance).
    """
    root = Path(sysconfig.get_path("stdlib"))
    documents, size = [], 0
    for name in sorted(sys.stdlib_module_names - _SKIPPED):
        text = "\n\n".join(filter(None, map(_docstrings, (root / f"{name}.py", root / name / "__init__.py"))))
        if len(text) >= _MIN_CHARACTERS and size < _MAX_CHARACTERS:
            documents.append(text)
            size += len(text)
    if not documents:
        raise CalibrationError(f"{root}: there is no standard library to take a default text from; give --data")
    return documents


def _docstrings(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in found if text)


def sha256_of_texts(documents: list[str]) -> str:
    """The hash of the documents, each followed by a null byte."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
