#!/usr/bin/env python3
"""Writes a trained XS state as an ordinary Hugging Face checkpoint: safetensors shards, index, config.json, generation_config.json.

    export.py STATE.pt FOLDER [--bf16]      (needs torch and safetensors)

Default is the official block-FP8 layout of the family (e4m3 codes, bfloat16 weight_scale_inv per 128x128 block); --bf16 writes everything
in bfloat16. Names: `model.` prefix, one tensor per expert matrix, `mtp.*` for the draft head, no lm_head (tied).
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

from model import Config, Xs, fp8_block, fp8_restore

SHARD_BYTES = 15 * 1024 * 1024  # files stay under 16 MiB, so that any of them travels alone


def expert_tensors(block, prefix, c):
    """(name, weight) of every expert matrix and of the shared expert, which is the last row of the stacked tensors."""
    for index in range(c.experts + 1):
        name = f"{prefix}mlp.shared_expert." if index == c.experts else f"{prefix}mlp.experts.{index}."
        gate_up = block["gate_up"][index]
        yield name + "gate_proj.weight", gate_up[:c.expert_width]
        yield name + "up_proj.weight", gate_up[c.expert_width:]
        yield name + "down_proj.weight", block["down"][index]


def block_tensors(block, prefix, full, c):
    """(name, weight, is FP8 in the official layout) of one layer; block maps the names of model.Block to tensors."""
    yield prefix + "input_layernorm.weight", block["input_norm"], False
    yield prefix + "post_attention_layernorm.weight", block["post_norm"], False
    if full:
        for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj")):
            yield f"{prefix}self_attn.{theirs}.weight", block[ours], True
        for name in ("q_norm", "k_norm"):
            yield f"{prefix}self_attn.{name}.weight", block[name], False
    else:
        for ours, theirs in (("qkv", "in_proj_qkv"), ("z", "in_proj_z"), ("out", "out_proj")):
            yield f"{prefix}linear_attn.{theirs}.weight", block[ours], True
        for ours, theirs in (("b", "in_proj_b"), ("a", "in_proj_a"), ("gated_norm", "norm")):
            yield f"{prefix}linear_attn.{theirs}.weight", block[ours], False
        yield prefix + "linear_attn.conv1d.weight", block["conv"][:, None], False
        yield prefix + "linear_attn.A_log", block["a_log"], False
        yield prefix + "linear_attn.dt_bias", block["dt_bias"], False
    yield prefix + "mlp.gate.weight", block["router"], False
    yield prefix + "mlp.shared_expert_gate.weight", block["shared_gate"], False
    for name, weight in expert_tensors(block, prefix, c):
        yield name, weight, True


def sub(state, prefix):
    return {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}


def all_tensors(state, c):
    yield "model.embed_tokens.weight", state["embed"], False
    yield "model.norm.weight", state["final_norm"], False
    for i in range(c.layers):
        yield from block_tensors(sub(state, f"blocks.{i}."), f"model.layers.{i}.", c.is_full(i), c)
    for ours, theirs in (("mtp_fc", "fc"), ("mtp_norm_e", "pre_fc_norm_embedding"), ("mtp_norm_h", "pre_fc_norm_hidden"), ("mtp_norm", "norm")):
        yield f"mtp.{theirs}.weight", state[ours], False
    yield from block_tensors(sub(state, "mtp_block."), "mtp.layers.0.", True, c)


def checkpoint(state, c, fp8=True, dtype=torch.bfloat16):
    """Name -> tensor of the whole checkpoint."""
    out = {}
    for name, weight, convertible in all_tensors(state, c):
        weight = weight.detach().cpu()
        if fp8 and convertible:
            codes, scale = fp8_block(weight)
            out[name], out[name.removesuffix("weight") + "weight_scale_inv"] = codes.contiguous(), scale.contiguous()
        else:
            out[name] = weight.to(dtype).contiguous()
    return out


def restored(tensors):
    """The checkpoint without FP8: what a reader computes with when it dequantises to bfloat16."""
    out = {}
    for name, tensor in tensors.items():
        if name.endswith("weight_scale_inv"):
            continue
        scale = tensors.get(name.removesuffix("weight") + "weight_scale_inv")
        out[name] = fp8_restore(tensor, scale).to(torch.bfloat16) if scale is not None else tensor
    return out


def load_state(folder, c=None):
    """The float32 state of model.Xs from a checkpoint folder; FP8 weights come back as a reader sees them."""
    c = c or Config()
    state = {name: torch.empty_like(value) for name, value in Xs(c).state_dict().items()}
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    tensors = restored(tensors)
    for name, view, _ in all_tensors(state, c):
        view.copy_(tensors.pop(name))
    if tensors:
        raise ValueError(f"tensors nobody asked for: {sorted(tensors)[:3]}")
    return state


def config_json(c, fp8, eos):
    kinds = ["full_attention" if c.is_full(i) else "linear_attention" for i in range(c.layers)]
    out = {
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "dtype": "bfloat16",
        "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "bos_token_id": None, "eos_token_id": eos[0],
        "full_attention_interval": c.full_every, "head_dim": c.head_dim, "hidden_act": "silu", "hidden_size": c.width,
        "initializer_range": 0.02, "layer_types": kinds, "linear_conv_kernel_dim": c.conv, "linear_key_head_dim": c.linear_dim,
        "linear_num_key_heads": c.key_heads, "linear_num_value_heads": c.value_heads, "linear_value_head_dim": c.linear_dim,
        "mamba_ssm_dtype": "float32", "max_position_embeddings": 32768, "moe_intermediate_size": c.expert_width,
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "num_attention_heads": c.heads, "num_experts": c.experts,
        "num_experts_per_tok": c.top_k, "num_hidden_layers": c.layers, "num_key_value_heads": c.kv_heads, "output_router_logits": False,
        "pad_token_id": eos[1], "partial_rotary_factor": c.rotary_dim / c.head_dim, "rms_norm_eps": c.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta, "partial_rotary_factor": c.rotary_dim / c.head_dim,
                            "mrope_interleaved": True, "mrope_section": [11, 11, 10]},
        "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": c.expert_width, "tie_word_embeddings": True,
        "use_cache": True, "vocab_size": c.vocab}
    if fp8:
        kept = ["lm_head", "model.embed_tokens", "mtp.fc"]
        kept += [f"model.layers.{i}.{n}" for i in range(c.layers) for n in ("mlp.gate", "mlp.shared_expert_gate")] + ["mtp.layers.0.mlp.gate", "mtp.layers.0.mlp.shared_expert_gate"]
        kept += [f"model.layers.{i}.linear_attn.{n}" for i in range(c.layers) if not c.is_full(i) for n in ("conv1d", "in_proj_a", "in_proj_b")]
        out["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                      "weight_block_size": [128, 128], "modules_to_not_convert": kept}
    return out


def write_folder(folder, state, c=None, fp8=True, eos=None):
    """Writes the checkpoint; eos are the ids of <|im_end|> and <|endoftext|>."""
    c, folder = c or Config(), pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    eos = eos or token_ids(folder)
    tensors = checkpoint(state, c, fp8)
    shards, room = [{}], SHARD_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= size
    where = {}
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        where.update({name: file for name in shard})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    dump(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    dump(folder / "config.json", config_json(c, fp8, eos))
    # A model this small wanders at temperature 1; 0.7 within the 20 best tokens keeps stories varied and answers right.
    dump(folder / "generation_config.json", {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "eos_token_id": eos, "pad_token_id": eos[1]})
    return total


def token_ids(folder):
    table = {t["content"]: t["id"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    return [table["<|im_end|>"], table["<|endoftext|>"]]


def dump(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state")
    parser.add_argument("folder", help="holds tokenizer.json already")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    state = torch.load(options.state, map_location="cpu", weights_only=True)
    print("bytes of tensors:", write_folder(options.folder, state, fp8=not options.bf16))


if __name__ == "__main__":
    main()
