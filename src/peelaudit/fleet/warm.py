"""What an audit needs imported, for the fork server to have ready: seconds once, instead of seconds a checkpoint.

Imports alone. A computation here would start threads, which don't survive a fork.
"""

from __future__ import annotations

import importlib

import peelaudit.auditing.run  # noqa: F401

__all__ = ["MODULES"]

MODULES = (
    "peelaudit.fleet.working",
    "peelaudit.records.json",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
    "torch.optim",
    "torch._dynamo",
)
"""What an audit imports late: transformers loads by itself only what is asked for."""

for _name in MODULES:
    importlib.import_module(_name)
