"""What a `quantization_config` of each method may hold: what is read, and what is known to be without effect.

Anything else is refused by its name: it may change what the network computes. Without effect is what says how codes
were found, which kernels run them, and which layers are packed, which the tensors themselves tell.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["KEYS"]


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_EVERYWHERE = _words("quant_method modules_to_not_convert kv_cache_scheme")

_GPTQ = _words(
    "bits group_size desc_act sym format checkpoint_format is_marlin_format pack_dtype meta method dynamic lm_head",
    "backend use_exllama disable_exllama exllama_config use_cuda_fp16 max_input_length modules_in_block_to_quantize",
    "block_name_to_quantize module_name_preceding_first_block model_name_or_path model_file_base_name model_seqlen",
    "tokenizer dataset batch_size pad_token_id cache_block_outputs true_sequential static_groups act_group_aware",
    "damp_percent damp_auto_increment mse hyb_act",
)

_AWQ = _words("version zero_point do_fuse fuse_max_seq_len modules_to_fuse")

_FLOAT8 = _words(
    "activation_scheme activation_scale_ub weight_block_size fmt scale_fmt expert_dtype ignored_layers",
    "modules_to_convert dequantize",
)

_OWN: Mapping[str, frozenset[str]] = {
    "bitnet": _words("linear_class quantization_mode use_rms_norm rms_norm_eps"),
    "gptq": _GPTQ,
    "awq": _GPTQ | _AWQ,
    "compressed-tensors": _words(
        "config_groups format quantization_status global_compression_ratio ignore sparsity_config transform_config",
        "run_compressed dequantize use_optimized_inference version",
    ),
    "bitsandbytes": _words(
        "load_in_8bit load_in_4bit _load_in_8bit _load_in_4bit llm_int8_threshold llm_int8_skip_modules",
        "llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight bnb_4bit_compute_dtype bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant bnb_4bit_quant_storage",
    ),
    "fp8": _FLOAT8,
    "mxfp8": _FLOAT8,
    "fbgemm_fp8": _FLOAT8,
    "auto-round": _words(
        "bits group_size sym data_type packing_format act_bits act_data_type act_dynamic act_group_size act_sym",
        "backend extra_config autoround_version block_name_to_quantize quant_block_list to_quant_block_names amp",
        "batch_size train_bs dataset seqlen nsamples iters lr minmax_lr gradient_accumulate_steps low_gpu_mem_usage",
        "enable_minmax_tuning enable_norm_bias_tuning enable_quanted_input enable_alg_ext scale_dtype lm_head",
        "super_bits super_group_size supported_types static_kv_dtype static_kv_granularity",
    ),
    "hqq": _words("quant_config skip_modules"),
    "mxfp4": _words("dequantize"),
    "quanto": _words("weights activations layers"),
    "torchao": _words("quant_type include_input_output_embeddings untie_embedding_weights"),
    "modelopt": _words(
        "quant_algo quantized_layers group_size config_groups ignore exclude_modules kv_cache_quant_algo producer",
        "has_zero_point pre_quant_scale",
    ),
}

KEYS: Mapping[str, frozenset[str]] = {method: keys | _EVERYWHERE for method, keys in _OWN.items()}
