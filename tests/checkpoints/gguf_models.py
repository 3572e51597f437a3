"""transformers' tiny models as llama.cpp's converter writes them: names, permuted rows, norms plus one, metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

Write = Callable[[gguf.GGUFWriter], None]


def convert(
    made: transformers.PreTrainedModel,
    path: Path,
    *,
    without: tuple[str, ...] = (),
    beside: dict[str, torch.Tensor] | None = None,
    metadata: Write = lambda writer: None,
    split: int = 0,
) -> Path:
    """The model as a GGUF file; `without` leaves keys and tensors out, `beside` adds tensors under GGUF's names, and
    `split` is how many tensors a part may have.
    """
    config = made.config
    architecture = {"gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    for key, value in _metadata(config, architecture).items():
        if key not in without:
            full = f"{architecture}.{key}"
            writer.add_float32(full, value) if isinstance(value, float) else writer.add_uint32(full, value)
    metadata(writer)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    tensors = dict(beside or {})
    for name, tensor in made.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        tensors[stored] = _written(tensor, stored, config)
    for stored, tensor in tensors.items():
        if stored not in without:
            writer.add_tensor(stored, np.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(config: transformers.PreTrainedConfig, architecture: str) -> dict[str, int | float]:
    found: dict[str, int | float] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    if architecture == "gpt2":
        return found | {"feed_forward_length": 4 * config.n_embd, "attention.layer_norm_epsilon": 1e-5}
    found |= {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "rope.freq_base": 10_000.0,
    }
    if architecture in ("gemma2", "gemma3"):
        found["attention.sliding_window"] = config.sliding_window
    return found


def _written(tensor: torch.Tensor, stored: str, config: transformers.PreTrainedConfig) -> torch.Tensor:
    if config.model_type == "llama" and (".attn_q." in stored or ".attn_k." in stored):
        heads = config.num_attention_heads if ".attn_q." in stored else config.num_key_value_heads
        rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return rows.swapaxes(1, 2).reshape(tensor.shape)
    if config.model_type in ("gemma2", "gemma3_text") and stored.endswith("norm.weight"):
        return tensor + 1
    return tensor.T if config.model_type == "gpt2" and tensor.ndim == 2 and stored.startswith("blk") else tensor
