"""Lines for llama.cpp's quantize."""

from __future__ import annotations

import dataclasses
import re

import gguf
import pytest

from peelaudit.errors import OutputError
from peelaudit.reports.formats.tensor_types import TYPES, export
from tests.factories import make_budget


def test_every_tensor_has_a_line_and_nothing_else_is_there() -> None:
    found = make_budget(12)
    lines = export(found).splitlines()
    assert len(lines) == 12 * 7
    assert lines[0] == "blk.0.q_proj.weight=q4_k"
    assert lines[-1] == "blk.11.down_proj.weight=q2_k"
    names = [name for row in found.rows for name in row.gguf]
    for line in lines:  # searched for as a regular expression, which must find one tensor alone
        pattern, _, _ = line.partition("=")
        assert [name for name in names if re.search(pattern, name)] == [pattern]


def test_what_is_two_tensors_there_has_two_lines() -> None:
    found = make_budget(1)
    first = dataclasses.replace(found.rows[0], gguf=("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"))
    lines = export(dataclasses.replace(found, rows=(first,))).splitlines()
    assert lines == ["blk.0.ffn_gate_exps.weight=q4_k", "blk.0.ffn_up_exps.weight=q4_k"]


def test_types_are_ggml_s_of_so_many_bits() -> None:
    for bits, name in TYPES.items():
        kind = gguf.GGMLQuantizationType[name.upper()]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        assert bits <= 8 * size / values < bits + 1


def test_a_matrix_without_a_name_is_an_error() -> None:
    found = make_budget(1)
    rows = (dataclasses.replace(found.rows[0], gguf=()),)
    with pytest.raises(OutputError, match=r"llama\.cpp's name for self_attn\.q_proj of block 1 isn't known"):
        export(dataclasses.replace(found, rows=rows))
