"""Layouts of other tools, which transformers doesn't compute with: each is told what converts it, in one sentence.

They hold the same networks under other names, with rotary halves interleaved or projections stacked in an order of
their own; what converts them is maintained where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from peelaudit.checkpoints.files import quoted
from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["check_directory", "check_names"]

_META = (
    "is in the original layout of Meta's or Mistral's models; convert it by transformers'"
    " convert_llama_weights_to_hf.py or convert_mistral_weights_to_hf.py and name what that writes"
)
_LITGPT = (
    "is in litgpt's layout; run `litgpt convert_from_litgpt CHECKPOINT_DIR OUTPUT_DIR` and name the model.pth that it"
    " writes, with --config for the config.json"
)
_MEGATRON = "is in Megatron's layout; export it to Hugging Face's, by Megatron Bridge's AutoBridge.export_ckpt"
_TORCHTUNE = "is in torchtune's own layout; save it with torchtune's FullModelHFCheckpointer"
_FILES: Mapping[str, str] = {
    "consolidated.00.pth": _META,
    "consolidated.safetensors": _META,
    "lit_model.pth": _LITGPT,
    "latest_checkpointed_iteration.txt": _MEGATRON,
    "model_optim_rng.pt": _MEGATRON,
}
_NAMES: Mapping[re.Pattern[str], str] = {
    re.compile(pattern): sentence
    for pattern, sentence in (
        (r"(^|\.)layers\.\d+\.attention\.wq\.weight$", _META),
        (r"(^|\.)transformer\.h\.\d+\.(norm_1\.weight|attn\.(attn|qkv)\.weight)$", _LITGPT),
        (r"(^|\.)layers\.\d+\.self_attention\.linear_qkv\.", _MEGATRON),
        (r"(^|\.)language_model\.encoder\.layers\.\d+\.", _MEGATRON),
        (r"(^|\.)layers\.\d+\.sa_norm\.scale$", _TORCHTUNE),
    )
}


def check_directory(directory: Path) -> None:
    """Raise UnsupportedCheckpoint where the directory has a file that another tool's layout is known by."""
    for name, sentence in _FILES.items():
        if (directory / name).exists():
            raise UnsupportedCheckpoint(f"{quoted(directory)}: {sentence}")


def check_names(names: Collection[str], path: Path) -> None:
    """Raise UnsupportedCheckpoint where a stored name is one of another tool's; `path` is the file's."""
    for name in names:
        for pattern, sentence in _NAMES.items():
            if pattern.search(name):
                raise UnsupportedCheckpoint(f"{quoted(path)}: {sentence}")
