"""The file names by which checkpoints and tokenizers are told. Without torch: searching directories stays cheap."""

from __future__ import annotations

import re

__all__ = [
    "ADAPTER_CONFIG",
    "CHECKPOINT_SUFFIXES",
    "DEEPSPEED",
    "DEEPSPEED_STAGE_3",
    "DISTRIBUTED",
    "FIX_RECORD",
    "TOKENIZER_FILES",
    "TORCH_SUFFIXES",
    "WEIGHT_FILES",
    "gguf_part",
    "gguf_parts",
]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What makes a directory a Hugging Face checkpoint, the preferred one first."""

ADAPTER_CONFIG = "adapter_config.json"
"""What makes a directory peft's adapter."""

DISTRIBUTED = ".metadata"
"""What makes a directory a torch.distributed checkpoint."""

FIX_RECORD = "peelaudit-fix.json"
"""What `fix` says of the checkpoint that it has written, beside that."""

DEEPSPEED = "mp_rank_00_model_states.pt"
"""What makes a directory a step's of DeepSpeed: the weights that rank 0 wrote whole."""

DEEPSPEED_STAGE_3 = "zero_pp_rank_0_mp_rank_00_model_states.pt"
"""The same where ZeRO stage 3 splits the weights over the ranks."""

TORCH_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
"""The suffixes of torch files."""

CHECKPOINT_SUFFIXES = (".safetensors", ".gguf", *TORCH_SUFFIXES)
"""The suffixes of a file that is a checkpoint by itself."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tiktoken.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "meta.pkl",
    "meta.json",
)
"""The usual names of a tokenizer in a directory, the preferred one first."""

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def gguf_part(name: str) -> tuple[int, int] | None:
    """Which part of how many a GGUF file is by its name, both from 1 on; None for the name of a whole one."""
    found = _PART.fullmatch(name)
    return None if found is None else (int(found["number"]), int(found["count"]))


def gguf_parts(name: str) -> tuple[str, ...]:
    """The names of all parts of a GGUF file, in order; of a whole one its own."""
    found = _PART.fullmatch(name)
    if found is None:
        return (name,)
    return tuple(
        f"{found['stem']}-{number:05}-of-{found['count']}.gguf" for number in range(1, int(found["count"]) + 1)
    )
