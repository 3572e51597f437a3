"""The page of a budget: a row for each block, of a deep network a line for each matrix."""

from __future__ import annotations

import dataclasses

from peelaudit.reports.terminal import render_budget
from peelaudit.reports.wording.budget import labels, runs, table_of
from tests.factories import LLAMA_MATRICES, make_budget


def test_a_small_network_s_page_is_a_screen_with_a_row_a_block() -> None:
    text = render_budget(make_budget())
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "on 12 of 40 sequences" in " ".join(text.split())
    assert "3.00 bits a weight cost +0.2000 nats/token." in text
    assert "+ 3 bits evenly  +0.3000" in text
    assert "  it saves       +0.1000" in text
    (header,) = [line.split() for line in lines if line.split()[:1] == ["block"]]
    assert header == ["block", *(name.rpartition(".")[2] for name in LLAMA_MATRICES), "KL", "evenly"]
    rows = [line.split() for line in lines if line.split()[:1] in [[str(layer)] for layer in range(1, 6)]]
    assert [row[:8] for row in rows] == [
        [str(layer), *(["4" if layer % 3 == 1 else "3"] * 6), "2"] for layer in range(1, 6)
    ]
    assert (rows[1][8], rows[1][9]) == ("0.1250", "0.0875")  # 6 · 0.0125 + 0.05, and 7 · 0.0125


def test_a_deep_network_has_a_line_a_matrix() -> None:
    found = make_budget(30)
    assert table_of(found) is None
    lines = dict(runs(found))
    assert lines["down_proj"] == "2 in 1–30"
    assert lines["q_proj"].startswith("3 in 2–3, 5–6, ")
    assert lines["q_proj"].endswith("; 4 in 1, 4, 7, 10, 13, 16, 19, 22, 25, 28")
    text = render_budget(found)
    assert len(text.splitlines()) <= 34
    assert "down_proj" in text
    assert "Bits, by block." in text


def test_names_are_as_short_as_tells_them_apart() -> None:
    found = make_budget(2, ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
    assert list(labels(found).values()) == ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
    assert "attn.c_proj" in render_budget(found)


def test_a_block_without_a_matrix_has_an_empty_cell() -> None:
    whole = make_budget(2)
    found = dataclasses.replace(
        whole, rows=tuple(row for row in whole.rows if (row.layer, row.name) != (2, LLAMA_MATRICES[1]))
    )
    rows = table_of(found)
    assert rows is not None
    assert rows[2][2] == ""
