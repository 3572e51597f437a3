"""GGUF files: the same tensors and numbers as transformers' own reading, one at a time; hostile headers."""

from __future__ import annotations

import itertools
import os
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import (
    CheckpointError,
    MalformedCheckpoint,
    MismatchedWeights,
    NonFiniteWeights,
    UnsupportedCheckpoint,
)
from tests.checkpoints.gguf_bytes import ARCHITECTURE, aligned, array, header, tensor, text, value
from tests.checkpoints.models import config

SMOLLM2 = Path(os.environ.get("PEELAUDIT_SMOLLM2", ""))  # its GGUF file: real models are not in the repository
HEAD_SIZES = {"qwen3": 128, "gemma3": 16}
WIDTH, MLP, VOCABULARY, LAYERS = 32, 64, 96, 2
SIZES = {
    "attn_norm": (WIDTH,),
    "ffn_norm": (WIDTH,),
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // 2, WIDTH),
    "attn_v": (WIDTH // 2, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (MLP, WIDTH),
    "ffn_up": (MLP, WIDTH),
    "ffn_down": (WIDTH, MLP),
}
QUANTIZED = {"Q8_0": gguf.GGMLQuantizationType.Q8_0, "Q4_1": gguf.GGMLQuantizationType.Q4_1}


def write(
    path: Path, kind: str = "F32", architecture: str = "llama", *, layers: int = LAYERS, tied: bool = True
) -> Path:
    """A tiny model of Llama's shape, its matrices of one type."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(HEAD_SIZES.get(architecture, WIDTH // 4))
    writer.add_token_list([f"t{index}" for index in range(VOCABULARY)])
    writer.add_tokenizer_model("gpt2")
    generator = np.random.default_rng(0)
    sizes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    sizes |= {f"blk.{layer}.{name}": size for layer in range(LAYERS) for name, size in SIZES.items()}
    if not tied:
        sizes["output"] = (VOCABULARY, WIDTH)
    if architecture in HEAD_SIZES:
        size = HEAD_SIZES[architecture]
        writer.add_key_length(size)
        writer.add_value_length(size)
        for block, (part, heads) in itertools.product(
            [f"blk.{n}" for n in range(LAYERS)], [("q", 4), ("k", 2), ("v", 2)]
        ):
            sizes |= {f"{block}.attn_{part}": (heads * size, WIDTH), f"{block}.attn_q_norm": (size,)}
            sizes |= {f"{block}.attn_k_norm": (size,), f"{block}.attn_output": (WIDTH, 4 * size)}
    if architecture == "gemma3":
        writer.add_sliding_window(16)
        parts = ("post_attention_norm", "post_ffw_norm")
        sizes |= {f"blk.{layer}.{part}": (WIDTH,) for layer in range(LAYERS) for part in parts}
    if architecture == "qwen2":
        sizes |= {f"blk.{n}.attn_{part}_bias": SIZES[f"attn_{part}"][:1] for n in range(LAYERS) for part in "qkv"}
    for name, size in sizes.items():
        values = generator.standard_normal(size).astype(np.float32)
        full = f"{name.removesuffix('_bias')}.bias" if name.endswith("_bias") else f"{name}.weight"
        add_tensor(writer, full, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if kind == "F32" or values.ndim == 1:
        writer.add_tensor(name, values)
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quantize(values, QUANTIZED[kind]), raw_dtype=QUANTIZED[kind])


def assert_as_transformers(path: Path) -> None:
    made = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    state = made.state_dict()
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.names()) == set(state)
        for name, expected in state.items():
            found = checkpoint.tensor(name)
            assert found.dtype == torch.float32
            assert torch.equal(found, expected), name
        checkpoint.check_weights()
        ours, theirs = checkpoint.config.to_dict(), made.config.to_dict()
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_parameters", "vocab_size")
    names += ("rms_norm_eps", "hidden_size", "intermediate_size", "max_position_embeddings", "tie_word_embeddings")
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


@pytest.mark.parametrize(
    ("kind", "architecture", "tied"),
    [
        ("F32", "llama", True),
        ("F16", "llama", False),
        ("Q8_0", "llama", True),
        ("Q4_1", "llama", True),
        ("Q8_0", "qwen2", False),
        ("F16", "qwen3", True),
        ("F16", "gemma3", True),
    ],
)
def test_the_same_tensors_as_transformers(kind: str, architecture: str, tied: bool, tmp_path: Path) -> None:
    assert_as_transformers(write(tmp_path / "tiny.gguf", kind, architecture, tied=tied))


def test_a_scale_that_is_infinite_is_refused_in_one_sentence(tmp_path: Path) -> None:
    raw = bytearray(write(tmp_path / "tiny.gguf", "Q8_0").read_bytes())
    raw[-34:] = b"\0\x7c" + bytes(32)  # the last block: infinity times 0
    (tmp_path / "tiny.gguf").write_bytes(raw)
    with (
        open_checkpoint(tmp_path / "tiny.gguf") as checkpoint,
        pytest.raises(NonFiniteWeights, match=r"'model\.layers\.1\.mlp\.down_proj\.weight' holds 32 NaN or Inf"),
    ):
        checkpoint.check_weights()


def test_info(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path / "tiny.gguf", "Q8_0")) as checkpoint:
        info = checkpoint.info
    assert (info.format, info.family, info.layers, info.context) == ("gguf", "llama", 2, 64)
    assert (info.dtype, info.tokenizer, info.tied_head) == ("Q8_0+float32", "tiny.gguf", True)
    matrix = next(tensor for tensor in info.tensors if tensor.name == "blk.0.ffn_up.weight")
    assert (matrix.shape, matrix.dtype, matrix.bytes) == ((MLP, WIDTH), "Q8_0", MLP * WIDTH // 32 * 34)


def test_gpt2_is_turned_to_transformers_orientation(tmp_path: Path) -> None:
    """Written as llama.cpp's converter writes GPT-2, from a model that transformers made."""
    made = transformers.AutoModelForCausalLM.from_config(config("gpt2"))
    writer = gguf.GGUFWriter(tmp_path / "gpt2.gguf", "gpt2")
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)
    for name, weight in made.state_dict().items():
        if name == "lm_head.weight":
            continue
        turned = weight.T if weight.ndim == 2 and ".h." in name else weight
        writer.add_tensor(table.get_name(name, (".weight", ".bias")), np.ascontiguousarray(turned.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "gpt2.gguf") as checkpoint:
        assert checkpoint.info.context == 32
        assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in made.state_dict().items())


def test_the_real_file() -> None:
    if not SMOLLM2.is_file():
        pytest.skip("SmolLM2's GGUF file isn't at hand")
    with open_checkpoint(SMOLLM2) as checkpoint:
        assert (checkpoint.info.layers, checkpoint.info.width, checkpoint.info.tied_head) == (30, 576, True)
        assert checkpoint.info.dtype == "Q4_1+Q8_0+float32"
        assert torch.isfinite(checkpoint.tensor("model.layers.29.self_attn.q_proj.weight")).all()


@pytest.mark.slow
def test_the_real_file_is_read_as_transformers_reads_it() -> None:
    if not SMOLLM2.is_file():
        pytest.skip("SmolLM2's GGUF file isn't at hand")
    assert_as_transformers(SMOLLM2)


def test_layers_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(MismatchedWeights, match="has 1000000000 layers, but the tensors are those of 2"):
        open_checkpoint(write(tmp_path / "tiny.gguf", layers=10**9))


def test_without_the_gguf_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedCheckpoint, match=r"install peelaudit\[gguf\]"):
        open_checkpoint(path)


# --- hostile headers --------------------------------------------------------------------------------------------------


SIZED = (
    ARCHITECTURE,
    *(
        value(b"llama." + key, 4, struct.pack("<I", 4))
        for key in (b"block_count", b"context_length", b"feed_forward_length")
    ),
    value(b"llama.embedding_length", 4, struct.pack("<I", 32)),
    value(b"llama.attention.head_count", 4, struct.pack("<I", 4)),
    value(b"llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GGUF", "is truncated"),
        (b"nope" * 10, "isn't a GGUF file"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
        *((header(array(0, length)), "promises more") for length in (10**8, 2**40, 2**63)),
        (header(array(8, 2**63)), "promises more"),
        (header(array(8, 4_000_001, bytes(8 * 4_000_001))), "has 4000001 strings, more than any vocabulary"),
        (header(counts=(0, 2**63)), "more than any model"),
        (header(counts=(2**63, 0)), "more than any model"),
        (header(value(b"x", 8, text(b"", 2**63))), "promises more"),
        (header(value(b"x", 8, text(b"abc", 100_000))), "promises more"),
        (header(array(9, 1, struct.pack("<IQ", 9, 1) * 1000)), "holds values of type 9"),
        (header(value(b"x", 99, b"")), "unknown type 99"),
        (header(value(b"x", 8, text(b"\xff\xfe"))), "isn't UTF-8"),
        (header(ARCHITECTURE, ARCHITECTURE), "'general.architecture' twice"),
        *((header(ARCHITECTURE, aligned(number)), "alignment is") for number in (0, 1, 3, 2**31)),
        (header(ARCHITECTURE, aligned(32, 6)), "alignment is"),
        (header(ARCHITECTURE, tensors=(tensor(offset=5),)) + bytes(200), "isn't aligned"),
        (header(ARCHITECTURE, tensors=(tensor(), tensor())) + bytes(200), "two tensors of one name"),
        (header(ARCHITECTURE, tensors=(tensor(dims=(64,)), tensor(b"b", offset=128))) + bytes(500), "overlaps"),
        (header(ARCHITECTURE, tensors=(tensor(dims=(2**40, 2**40)),)), "impossible shape"),
        (header(ARCHITECTURE, tensors=(tensor(dims=(0,)),)), "impossible shape"),
        (header(ARCHITECTURE, tensors=(tensor(dims=(1,) * 5),)), "5 dimensions"),
        (header(ARCHITECTURE, tensors=(tensor(offset=2**63 - 2**6),)) + bytes(200), "beyond the file"),
        (header(ARCHITECTURE, tensors=(tensor(kind=999),)) + bytes(200), "type 999"),
        (header(ARCHITECTURE, tensors=(tensor(dims=(33,), kind=2),)) + bytes(200), "rows of 33"),
        (header(tensors=(tensor(),)) + bytes(200), "doesn't name its architecture"),
        (header(value(b"general.architecture", 8, text(b"bert"))), "the architecture 'bert' can't be audited"),
        (
            header(
                value(b"general.architecture", 8, text(b"qwen2")),
                value(b"qwen2.expert_count", 4, struct.pack("<I", 8)),
            ),
            "mixtures of experts of the architecture 'qwen2'",
        ),
        (header(*SIZED, value(b"llama.rope.scaling.type", 8, text(b"longrope"))), "rope.scaling.type' is 'longrope'"),
        (header(*SIZED, tensors=(tensor(b"rope_freqs.weight"),)) + bytes(200), "scales its rotary"),
        (header(ARCHITECTURE, value(b"llama.block_count", 8, text(b"two"))), "llama.block_count' is 'two'"),
        (header(ARCHITECTURE), "lacks the value 'llama.block_count'"),
        (header(ARCHITECTURE, value(b"split.count", 2, struct.pack("<H", 2))), "makes it part 1 of 2, but its name"),
        (header(ARCHITECTURE, value(b"general.type", 8, text(b"adapter"))), "general.type is 'adapter'"),
    ],
)
def test_hostile_headers(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.gguf'.*{message}") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
def test_a_truncated_file(keep: float, tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(MalformedCheckpoint, match="truncated"):
        open_checkpoint(path)


def test_any_damaged_byte_of_the_header_is_survived(tmp_path: Path) -> None:
    raw = write(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "damaged.gguf"
    outcomes = set()
    for at, new in itertools.product(range(0, 1200, 97), (0, 0xFF)):
        path.write_bytes(raw[:at] + bytes([new]) + raw[at + 1 :])
        try:
            open_checkpoint(path).close()
            outcomes.add("opened")
        except CheckpointError as error:
            outcomes.add("refused" if "damaged.gguf" in str(error) else str(error))
    assert outcomes == {"opened", "refused"}  # either is right, another error isn't
