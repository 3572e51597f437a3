"""Settings of any JSON type, at any depth, of every method: read or refused in one sentence, never another error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from peelaudit.checkpoints.quantized import SETTINGS_FILES, find_method
from peelaudit.checkpoints.quantized.methods import METHODS
from peelaudit.errors import CheckpointError
from tests.checkpoints.quantized import auto_round, awq, bitsandbytes, compressed_tensors, fp8, gptq, hqq, torchao

ANY: tuple[Any, ...] = (None, True, 0, -1, 1.5, "x\n", [], [[1]], ["x"], {}, {"a": 1}, {"a": {"weights": [4]}})
SETTINGS: dict[str, dict[str, Any]] = {
    "auto-round": auto_round.config("auto_round:auto_gptq"),
    "awq": awq.config(),
    "bitnet": {
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "use_rms_norm": True,
        "rms_norm_eps": 1e-6,
    },
    "bitsandbytes": bitsandbytes.config(4),
    "compressed-tensors": compressed_tensors.config("pack-quantized", 4, sparsity_config={}, transform_config={}),
    "fbgemm_fp8": {"activation_scale_ub": 1200.0},
    "fp8": fp8.config(fmt="e4m3", scale_fmt="ue8m0"),
    "gptq": gptq.config(4, 32, meta={"quantizer": ["gptqmodel:2.0"]}, desc_act=False, checkpoint_format="gptq"),
    "hqq": hqq.config(),
    "intel/auto-round": auto_round.config("auto_round:auto_awq"),
    "modelopt": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}, "group_size": 16},
    "mxfp4": {"dequantize": False},
    "mxfp8": {"weight_block_size": [1, 32]},
    "quanto": {"weights": "int4", "activations": None, "layers": {"a": {"weights": "qint4", "activations": "none"}}},
    "torchao": torchao.config("IntxWeightOnlyConfig", weight_dtype=torchao.enum("torch.dtype", "int4")),
}


def replaced(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The values with each in turn replaced, those of objects among them too."""
    for key, value in values.items():
        yield from ({**values, key: other} for other in ANY)
        if isinstance(value, dict):
            yield from ({**values, key: inner} for inner in replaced(value))


def test_every_method_is_tried() -> None:
    assert SETTINGS.keys() == METHODS.keys()


def refusal(settings: object) -> str:
    """What is said of them, nothing where they are read; any other error is one of the test."""
    try:
        find_method({"quantization_config": settings}, "config.json")
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("method", SETTINGS)
def test_settings_of_any_type_are_read_or_refused(method: str) -> None:
    settings = {**SETTINGS[method], "quant_method": method}
    assert refusal(settings) == ""
    said = [refusal(changed) for changed in replaced(settings)]
    assert any(said)
    assert not any("\n" in sentence for sentence in said)


@pytest.mark.parametrize("value", ANY)
def test_files_beside_of_any_content_are_read_or_refused(value: Any) -> None:
    for content in ({}, {"quantization": value}, {"quantization": {"quant_algo": value}}, {"layer": value}):
        assert refusal(SETTINGS_FILES["hf_quant_config.json"](content)).count("\n") == 0
        assert refusal(SETTINGS_FILES["quanto_qmap.json"](content)).count("\n") == 0
