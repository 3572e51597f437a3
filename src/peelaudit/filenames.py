"""The file names by which checkpoints and tokenizers are told. Without torch: searching directories stays cheap."""

from __future__ import annotations

__all__ = ["CHECKPOINT_SUFFIXES", "DISTRIBUTED", "TOKENIZER_FILES", "TORCH_SUFFIXES", "WEIGHT_FILES"]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What makes a directory a Hugging Face checkpoint, the preferred one first."""

DISTRIBUTED = ".metadata"
"""What makes a directory a torch.distributed checkpoint, which is told what it is and never loaded."""

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
