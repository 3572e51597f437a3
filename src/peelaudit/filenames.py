"""The file names by which checkpoints are told. Without torch, so that searching whole directories stays cheap."""

from __future__ import annotations

__all__ = [
    "ADAPTER_CONFIG",
    "CHECKPOINT_SUFFIXES",
    "DEEPSPEED",
    "DEEPSPEED_STAGE_3",
    "DISTRIBUTED",
    "TORCH_SUFFIXES",
    "WEIGHT_FILES",
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

DEEPSPEED = "mp_rank_00_model_states.pt"
"""What makes a directory a step's of DeepSpeed: the weights that rank 0 wrote whole."""

DEEPSPEED_STAGE_3 = "zero_pp_rank_0_mp_rank_00_model_states.pt"
"""The same where ZeRO stage 3 splits the weights over the ranks."""

TORCH_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
"""The suffixes of torch files."""

CHECKPOINT_SUFFIXES = (".safetensors", ".gguf", *TORCH_SUFFIXES)
"""The suffixes of a file that is a checkpoint by itself."""
