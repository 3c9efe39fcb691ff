"""Writes config.json files of published shapes into FOLDER/<name>/, for weir bench --load-format dummy.

Shapes: the model cards' text configs (Qwen3.6-35B-A3B, Qwen3.5-397B-A17B). Usage: python3 tools/gpu/shapes.py FOLDER
"""

import json
import pathlib
import sys

COMMON = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "model_type": "qwen3_5_moe_text",
    "dtype": "bfloat16",
    "attn_output_gate": True,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262144,
    "mtp_num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
                        "mrope_interleaved": True, "mrope_section": [11, 11, 10]},
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
    "vocab_size": 248320,
    "eos_token_id": 248044,
}

SHAPES = {
    "35b": {"hidden_size": 2048, "num_hidden_layers": 40, "linear_num_value_heads": 32, "num_attention_heads": 16,
            "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512},
    "397b": {"hidden_size": 4096, "num_hidden_layers": 60, "linear_num_value_heads": 64, "num_attention_heads": 32,
             "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 1024,
             "shared_expert_intermediate_size": 1024},
}


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, shape in SHAPES.items():
        config = {**COMMON, **shape}
        layers = shape["num_hidden_layers"]
        config["layer_types"] = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config, indent=1))


main()
