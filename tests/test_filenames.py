"""The names of a split GGUF file's parts."""

from __future__ import annotations

import pytest

from peelaudit.filenames import gguf_part, gguf_parts


def test_a_part_names_all_parts() -> None:
    names = ("a-b-00001-of-00003.gguf", "a-b-00002-of-00003.gguf", "a-b-00003-of-00003.gguf")
    for number, name in enumerate(names, start=1):
        assert gguf_part(name) == (number, 3)
        assert gguf_parts(name) == names


@pytest.mark.parametrize("name", ["a.gguf", "a-1-of-3.gguf", "a-00001-of-00003.safetensors", "a-00001-of-00003.gguf.x"])
def test_other_names_are_whole_files(name: str) -> None:
    assert gguf_part(name) is None
    assert gguf_parts(name) == (name,)
