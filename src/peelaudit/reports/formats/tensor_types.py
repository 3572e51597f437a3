"""A budget for llama.cpp's quantize: lines for its `--tensor-type-file`, each also the value of a `--tensor-type`.

`blk.0.attn_q.weight=q3_k`: a name of GGUF's, where llama.cpp looks for it in those of the tensors, and a type of
ggml's. The file has no place for words beside them.
"""

from __future__ import annotations

from collections.abc import Mapping

from peelaudit.errors import OutputError
from peelaudit.records.budget import Budget

__all__ = ["TYPES", "export"]

TYPES: Mapping[int, str] = {2: "q2_k", 3: "q3_k", 4: "q4_k", 5: "q5_k", 6: "q6_k", 8: "q8_0"}
"""The plain type of each width."""


def export(found: Budget) -> str:
    """A line for each tensor, from the bottom up.

    Raises:
        OutputError: a matrix has no name in GGUF.
    """
    for row in found.rows:
        if not row.gguf:
            raise OutputError(f"llama.cpp's name for {row.name} of block {row.layer} isn't known: write table or json")
    return "".join(f"{name}={TYPES[row.bits]}\n" for row in found.rows for name in row.gguf)
