"""ggml's types: each that the gguf library dequantises is read as it does, each other is refused by its name."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from peelaudit.checkpoints.gguf_part import GgufPart
from peelaudit.errors import UnsupportedCheckpoint

ROWS, BLOCKS = 3, 2


def decodable(kind: gguf.GGMLQuantizationType) -> bool:
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


KINDS = tuple(gguf.GGMLQuantizationType)
READ = tuple(kind for kind in KINDS if decodable(kind))


def written(path: Path, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """A file with one tensor of any bytes; its rows of bytes."""
    width = BLOCKS * gguf.GGML_QUANT_SIZES[kind][1]
    rows = np.random.default_rng(int(kind)).integers(0, 256, (ROWS, width), dtype=np.uint8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("t", rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rows


def test_most_types_are_read() -> None:
    names = {kind.name for kind in READ}
    assert names >= {"F32", "F16", "BF16", "Q4_0", "Q8_0", "Q2_K", "Q6_K", "TQ1_0", "TQ2_0", "IQ1_M", "IQ4_XS", "MXFP4"}


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_a_type_is_read_as_the_library_reads_it(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    rows = written(tmp_path / "m.gguf", kind)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(np.ascontiguousarray(gguf.dequantize(rows, kind), dtype=np.float32))
        with closing(GgufPart(tmp_path / "m.gguf")) as part:
            found = part.read("t")
            assert part.tensors["t"].shape == found.shape == (ROWS, BLOCKS * gguf.GGML_QUANT_SIZES[kind][0])
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in READ], ids=lambda kind: kind.name)
def test_a_type_that_the_library_does_not_dequantise_is_refused_by_name(
    kind: gguf.GGMLQuantizationType, tmp_path: Path
) -> None:
    written(tmp_path / "m.gguf", kind)
    with pytest.raises(UnsupportedCheckpoint, match=rf"'t' is of ggml type {kind.name}, which isn't read"):
        GgufPart(tmp_path / "m.gguf")
