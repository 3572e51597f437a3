"""Checkpoints of every format: tiny networks, saved as their libraries save them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from bench.fuzz.case import Files, Format, read
from bench.fuzz.formats.gguf_files import change_gguf
from bench.fuzz.formats.pickles import change_pickle
from bench.fuzz.formats.safetensors_files import change_safetensors
from bench.fuzz.formats.torch_files import change_archive
from bench.fuzz.mutation import change_bytes, change_json
from bench.fuzz.uses import open_adapted, open_directory, open_file
from tests.checkpoints import gguf_models, models
from tests.checkpoints.quantized import awq, bitsandbytes, compressed_tensors, fp8, gptq, hqq
from tests.checkpoints.quantized.support import pack

__all__ = ["CHECKPOINTS"]

_TINY: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_layer": 1, "vocab_size": 32},
    "smollm3": {"num_hidden_layers": 1, "vocab_size": 32, "no_rope_layers": [1]},
    "deepseek_v3": {},  # its first layer is dense
}
"""What makes a network small, where that isn't one layer of 32 words."""
_CONFIGURED = (
    "llama",
    "gpt2",
    "gemma3_text",
    "gpt_neox",
    "opt",
    "qwen2_moe",
    "deepseek_v3",
    "smollm3",
    "phi3",
    "gpt_oss",
)
_TOLD = ("llama", "qwen2", "gemma3_text", "mixtral")
_PACKED: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "gptq": (gptq.packer(4, 32), gptq.config(4, 32)),
    "awq": (awq.packer(32), awq.config(32)),
    "fp8": (fp8.packer((32, 32)), fp8.config((32, 32))),
    "bitsandbytes": (bitsandbytes.eight_bits, bitsandbytes.config(8)),
    "compressed": (compressed_tensors.packer("channel"), compressed_tensors.config("int-quantized")),
    "hqq": (hqq.packer(4), hqq.config()),
}
_CHANGES: Mapping[str, Callable[[Random, bytes], bytes]] = {
    ".json": change_json,
    ".safetensors": change_safetensors,
    ".pt": change_archive,
    ".bin": change_archive,
    ".gguf": change_gguf,
    ".metadata": change_pickle,
    ".distcp": lambda draw, raw: change_bytes(draw, raw),
}


def _changing(*names: str) -> Callable[[Random, Files], Files]:
    """A change of one of the files whose names end so, or now and then of which files there are."""

    def change(draw: Random, files: Files) -> Files:
        found = [name for name in files if name.endswith(names)]
        name = draw.choice(found)
        if len(files) > 1 and draw.random() < 0.02:
            return {key: data for key, data in files.items() if key != name}
        other = draw.choice(found)
        if len(found) > 1 and draw.random() < 0.03:
            return {**files, name: files[other]}
        ending = next(end for end in _CHANGES if name.endswith(end))
        return {**files, name: _CHANGES[ending](draw, files[name])}

    return change


def _saved(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **options: Any) -> Files:
    place = folder / f"{family}-{len(list(folder.iterdir()))}"
    return read(models.save(copy.deepcopy(_model(family)).to(dtype), place, **options))


@cache
def _model(family: str) -> Any:
    return models.model(family, **_TINY.get(family, {"num_hidden_layers": 1, "vocab_size": 32}))


def _safetensors(folder: Path) -> Sequence[Files]:
    return [_saved(folder), _saved(folder, dtype=torch.bfloat16), _saved(folder, "gpt2"), _saved(folder, "qwen2")]


def _sharded(folder: Path) -> Sequence[Files]:
    return [_saved(folder, max_shard_size="8KB"), _saved(folder, "qwen2", max_shard_size="8KB")]


def _torch(folder: Path) -> Sequence[Files]:
    plain = _saved(folder)["config.json"]
    state = _model("llama").state_dict()
    lightning = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "global_step": 7,
        "epoch": 1,
    }
    lightning |= {"hyper_parameters": {"lr": 1e-3}, "pytorch-lightning_version": "2.0"}
    contents = (models.nanogpt(bias=False, layers=1), models.nanogpt(bias=True, layers=1), state, lightning)
    found = []
    for content in contents:
        torch.save(content, folder / "model.pt")
        files = {"model.pt": (folder / "model.pt").read_bytes()}
        found.append(files if "model_args" in content else {**files, "config.json": plain})
    return found


def _gguf(folder: Path) -> Sequence[Files]:
    found = []
    for family in _TOLD:
        path = gguf_models.convert(_model(family), folder / f"{family}.gguf", metadata=_tokens)
        found.append({"model.gguf": path.read_bytes()})
    return found


def _tokens(writer: Any) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(32)])
    writer.add_token_merges(["t 1"])


def _configs(folder: Path) -> Sequence[Files]:
    return [_saved(folder, family) for family in _CONFIGURED]


def _changed_config(draw: Random, files: Files) -> Files:
    """A config.json with other values, or with some of another family's."""
    if draw.random() < 0.3:
        values = json.loads(files["config.json"])
        others = _model(draw.choice(_CONFIGURED)).config.to_dict()
        for key in draw.sample(sorted(others), draw.choice((1, 2, 5))):
            values[key] = others[key]
        return {**files, "config.json": json.dumps(values, default=str).encode()}
    return {**files, "config.json": change_json(draw, files["config.json"])}


def _packed(folder: Path) -> Sequence[Files]:
    for name, (packer, config) in _PACKED.items():
        pack("llama", folder / name, packer, config)
    return [read(folder / name) for name in _PACKED]


def _adapted(folder: Path) -> Sequence[Files]:
    base = {f"base/{name}": data for name, data in _saved(folder).items()}
    found = []
    draws = torch.Generator().manual_seed(0)
    for dora in (False, True):
        tensors: dict[str, torch.Tensor] = {}
        for part in ("self_attn.q_proj", "mlp.down_proj"):
            shape = _model("llama").get_parameter(f"model.layers.0.{part}.weight").shape
            name = f"base_model.model.model.layers.0.{part}"
            tensors |= {
                f"{name}.lora_A.weight": torch.randn(2, shape[1], generator=draws),
                f"{name}.lora_B.weight": torch.randn(shape[0], 2, generator=draws),
            }
            tensors |= {f"{name}.lora_magnitude_vector": torch.rand(shape[0], generator=draws)} if dora else {}
        save_file(tensors, folder / "a.safetensors")
        settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "use_dora": dora}
        settings |= {"target_modules": ["q_proj", "down_proj"], "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
        settings |= {"fan_in_fan_out": False, "use_rslora": False, "modules_to_save": None, "layers_to_transform": None}
        adapter = {"adapter/adapter_config.json": json.dumps(settings).encode()}
        found.append({**base, **adapter, "adapter/adapter_model.safetensors": (folder / "a.safetensors").read_bytes()})
    return found


def _distributed(folder: Path) -> Sequence[Files]:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter  # here: it takes seconds
    from torch.distributed.checkpoint.state_dict_saver import save

    state = _model("llama").state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = FileSystemWriter(folder / "dcp", thread_count=2)
        save({"model": state, "step": 3}, storage_writer=writer, no_dist=True)
    _model("llama").config.save_pretrained(folder / "dcp")
    (path := folder / "dcp/.metadata").write_bytes(_without_names(path.read_bytes()))
    return [read(folder / "dcp"), _deepspeed(folder), _stage_3(folder)]


def _without_names(raw: bytes) -> bytes:
    """A `.metadata` without the directory's name, one drawn for each save, and its threads' order: always the same."""
    found = pickle.loads(raw)
    found.storage_data = dict(sorted(found.storage_data.items(), key=lambda item: item[0].fqn))
    found.storage_meta = dataclasses.replace(found.storage_meta, checkpoint_id="saved", save_id="first")
    return pickle.dumps(found)


def _deepspeed(folder: Path) -> Files:
    state = _model("llama").state_dict()
    content = {"module": state, "buffer_names": [], "optimizer": None, "global_steps": 100, "dp_world_size": 8}
    content |= {"param_shapes": [{name: tensor.shape for name, tensor in state.items()}], "mp_world_size": 1}
    (place := folder / "deepspeed").mkdir()
    torch.save(content, place / "mp_rank_00_model_states.pt")
    _model("llama").config.save_pretrained(place)
    return read(place)


def _stage_3(folder: Path) -> Files:
    """Two ranks' parts of every parameter, in one group."""
    state = _model("llama").state_dict()
    (place := folder / "stage-3").mkdir()
    shapes = [{name: tensor.shape for name, tensor in state.items()}]
    for rank in range(2):
        flat = torch.cat([tensor.flatten().chunk(2)[rank] for tensor in state.values()])
        states: dict[str, Any] = {
            "module": {name: torch.empty(0) for name in state},
            "buffer_names": [],
            "shared_params": {},
        }
        torch.save({**states, "param_shapes": shapes}, place / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        row = {"zero_stage": 3, "partition_count": 2, "fp32_flat_groups": [flat]}
        torch.save({"optimizer_state_dict": row}, place / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    _model("llama").config.save_pretrained(place)
    return read(place)


_SAFETENSORS = Format("safetensors", 14, _safetensors, _changing(".safetensors"), open_directory)

CHECKPOINTS = (
    _SAFETENSORS,
    dataclasses.replace(
        _SAFETENSORS, name="sharded", share=5, bases=_sharded, change=_changing(".safetensors", "index.json")
    ),
    Format("torch", 14, _torch, _changing(".pt"), lambda folder: open_file(folder / "model.pt")),
    Format("gguf", 14, _gguf, _changing(".gguf"), lambda folder: open_file(folder / "model.gguf")),
    Format("config", 10, _configs, _changed_config, open_directory),
    Format("packed", 6, _packed, _changing(".safetensors", "config.json"), open_directory),
    Format("adapter", 4, _adapted, _changing("adapter_config.json", "adapter_model.safetensors"), open_adapted),
    Format("distributed", 6, _distributed, _changing(".metadata", ".distcp", ".pt"), open_directory),
)
