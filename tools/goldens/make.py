#!/usr/bin/env python3
"""Makes the golden checkpoints and their log-probabilities with transformers (the independent implementation).

Usage: make.py [--out tests/data/goldens] [--only NAME]. Needs torch 2.11 and transformers 5.17, CPU only.
For each model: random BF16 weights are written as a checkpoint (or quantised to block FP8 / MXFP4), read back, widened
to float32 (quantised ones as code x scale in float32, unrounded), loaded into the transformers classes in float32, and
run on prompts of 1, 63, 64, 65, 700 and 1,500 tokens. Stored per model, in golden.safetensors:
  prompt.N           I32 [N]       token ids
  logprobs.N         F32 [N-1]     log-probability of each prompt token after the first
  last.N             F32 [V]       log-probabilities after the last token
  greedy.N           I32 [G]       greedy continuation (prompts of 63, 64 and 65)
  greedy_gap.N       F32 [G]       distance between the two likeliest logits at each of those steps
  mtp.K.N            F32 [K, V]    log-probabilities of the draft head's chain of K drafts after the prompt
  mtp_tokens.K.N     I32 [K + 1]   the target's greedy token, then the chain's greedy drafts
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5ForCausalLM, Qwen3_5RMSNorm
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import (
    Qwen3_5MoeDecoderLayer,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeRMSNorm,
)

LENGTHS = [1, 63, 64, 65, 700, 1500]
GREEDY_LENGTHS = [63, 64, 65]
GREEDY_TOKENS = 24

ODD = dict(hidden_size=40, num_hidden_layers=5, num_attention_heads=3, num_key_value_heads=1, head_dim=24,
           linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=16, linear_value_head_dim=8,
           vocab_size=211, rms_norm_eps=1e-6)
REAL = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=256,
            linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=128, linear_value_head_dim=128,
            vocab_size=192, rms_norm_eps=1e-6)
MOE_ODD = dict(num_experts=7, num_experts_per_tok=3, moe_intermediate_size=12, shared_expert_intermediate_size=20)
MOE_REAL = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)
ROPE = {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25, "mrope_interleaved": True,
        "mrope_section": [11, 11, 10]}

# name: family, sizes, tied, nested config, experts fused in the checkpoint, quantisation, has a draft head
MODELS = {
    "moe-odd": dict(family="moe", sizes={**ODD, **MOE_ODD}, tied=False, nested=True, fused=True, quant=None, mtp=True),
    "moe-real": dict(family="moe", sizes={**REAL, **MOE_REAL}, tied=True, nested=False, fused=False, quant=None, mtp=True),
    "dense-tied": dict(family="dense", sizes={**ODD, "intermediate_size": 52}, tied=True, nested=True, quant=None, mtp=False),
    "dense-untied": dict(family="dense", sizes={**REAL, "intermediate_size": 72}, tied=False,
                         nested=False, quant=None, mtp=False),
    "next": dict(family="next", sizes={**ODD, **MOE_ODD, "hidden_size": 48, "num_hidden_layers": 4}, tied=False,
                 nested=False, fused=False, quant=None, mtp=False),
    "moe-fp8": dict(family="moe", sizes={**ODD, **MOE_ODD, "hidden_size": 144, "num_hidden_layers": 4,
                                         "num_attention_heads": 2, "head_dim": 32, "linear_num_value_heads": 4,
                                         "linear_key_head_dim": 32, "linear_value_head_dim": 16, "num_experts": 3,
                                         "num_experts_per_tok": 2, "moe_intermediate_size": 16}, tied=True,
                    nested=True, fused=False, quant="fp8", mtp=True),
    # The head sizes and multiples of 64 that the GPU's kernels for packed weights take.
    "moe-fit": dict(family="moe", sizes={**REAL, "hidden_size": 128, "num_experts": 6, "num_experts_per_tok": 2,
                                         "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64},
                    tied=False, nested=True, fused=False, quant="fp8", mtp=True),
    "moe-mxfp4": dict(family="moe", sizes={**ODD, **MOE_ODD, "hidden_size": 64, "moe_intermediate_size": 32,
                                           "num_hidden_layers": 4}, tied=False, nested=True, fused=False,
                      quant="mxfp4", mtp=False),
}

FAMILIES = {
    "moe": (Qwen3_5MoeTextConfig, Qwen3_5MoeForCausalLM, "qwen3_5_moe"),
    "dense": (Qwen3_5TextConfig, Qwen3_5ForCausalLM, "qwen3_5"),
    "next": (Qwen3NextConfig, Qwen3NextForCausalLM, "qwen3_next"),
}

# What the official block-FP8 checkpoints convert; everything else stays BF16.
FP8_SUFFIXES = ("in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                "down_proj")
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def text_config(spec):
    config_class, _, _ = FAMILIES[spec["family"]]
    extra = dict(rope_parameters=dict(ROPE), tie_word_embeddings=spec["tied"], max_position_embeddings=4096,
                 eos_token_id=2, linear_conv_kernel_dim=4)
    if spec["family"] == "next":
        extra["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25}
        extra["norm_topk_prob"] = True
    return config_class(**spec["sizes"], **extra)


def random_weights(model, generator, tied=False):
    """Strong enough that every part matters, gentle enough that rounding does not change routes."""
    for name, value in model.named_parameters():
        shape = value.shape
        if name.endswith("A_log"):
            new = torch.empty(shape).uniform_(0.05, 8, generator=generator).log()
        elif name.endswith("dt_bias"):
            new = torch.empty(shape).uniform_(-3, 1, generator=generator)
        elif name.endswith("linear_attn.norm.weight"):
            new = 1 + 0.2 * torch.randn(shape, generator=generator)
        elif value.dim() == 1:
            new = 0.2 * torch.randn(shape, generator=generator)
        elif "conv1d" in name:
            new = 0.4 * torch.randn(shape, generator=generator)
        elif "embed_tokens" in name:
            new = torch.randn(shape, generator=generator) * (2 / shape[-1] ** 0.5 if tied else 1)
        else:
            gain = 1.0
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")):
                gain = 0.3
            elif name.endswith("mlp.gate.weight"):
                gain = 3.0
            elif name.endswith("lm_head.weight"):
                gain = 2.0
            new = gain * torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        with torch.no_grad():
            value.copy_(new.to(torch.bfloat16).float())


class DraftHead(torch.nn.Module):
    """models.md 2.8: the family's own full-attention decoder layer between two norms, a join and a final norm."""

    def __init__(self, config, layer_class, norm_class):
        super().__init__()
        size = config.hidden_size
        full = config.layer_types.index("full_attention")
        self.pre_fc_norm_embedding = norm_class(size, eps=config.rms_norm_eps)
        self.pre_fc_norm_hidden = norm_class(size, eps=config.rms_norm_eps)
        self.fc = torch.nn.Linear(2 * size, size, bias=False)
        self.layers = torch.nn.ModuleList([layer_class(config, full)])
        self.norm = norm_class(size, eps=config.rms_norm_eps)

    def forward(self, model, hidden, tokens):
        """hidden [T, D] and the token after each row [T] -> post-norm rows [T, D]; causal over the rows given."""
        joined = torch.cat([self.pre_fc_norm_embedding(model.model.embed_tokens(tokens)),
                            self.pre_fc_norm_hidden(hidden)], dim=-1)[None]
        x = self.fc(joined)
        count = x.shape[1]
        positions = torch.arange(count)[None]
        rotary = model.model.rotary_emb(x, positions[None].expand(3, -1, -1))
        mask = torch.full((count, count), float("-inf")).triu(1)[None, None]
        x = self.layers[0](x, position_embeddings=rotary, attention_mask=mask, position_ids=positions)
        return self.norm(x)[0]


def draft_chain(model, head, tokens, depth):
    """Log-probabilities of a chain of `depth` greedy drafts after `tokens`, recomputed from scratch at every step."""
    output = model.model(torch.tensor([tokens]))
    hidden = output.last_hidden_state[0]
    target = int(model.lm_head(hidden[-1]).argmax())
    rows, chain = [], [target]
    inputs_hidden = hidden
    inputs_tokens = list(tokens[1:]) + [target]
    for step in range(depth):
        m = head(model, inputs_hidden, torch.tensor(inputs_tokens))
        logits = model.lm_head(m[-1])
        rows.append(torch.log_softmax(logits.double(), -1).float())
        chain.append(int(logits.argmax()))
        inputs_hidden = torch.cat([inputs_hidden, m[-1:]])
        inputs_tokens = inputs_tokens + [chain[-1]]
    return torch.stack(rows), torch.tensor(chain, dtype=torch.int32)


def quantise_fp8(weight):
    n, k = weight.shape
    rows, columns = -(-n // 128), -(-k // 128)
    padded = torch.zeros(rows * 128, columns * 128)
    padded[:n, :k] = weight
    blocks = padded.view(rows, 128, columns, 128)
    scale = (blocks.abs().amax(dim=(1, 3)) / 448).clamp(min=1e-12).to(torch.bfloat16)
    codes = (blocks / scale.float()[:, None, :, None]).reshape(padded.shape)[:n, :k].to(torch.float8_e4m3fn)
    return codes.contiguous(), scale


def widen_fp8(codes, scale):
    n, k = codes.shape
    full = scale.float().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    return codes.float() * full


def quantise_mxfp4(weight):
    n, k = weight.shape
    groups = weight.view(n, k // 32, 32)
    exponent = torch.floor(torch.log2(groups.abs().amax(-1).clamp(min=1e-20))) - 2
    scaled = groups / torch.exp2(exponent)[..., None]
    codes = (scaled[..., None] - E2M1).abs().argmin(-1).view(n, k).to(torch.uint8)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return packed.contiguous(), (exponent + 127).to(torch.uint8)


def widen_mxfp4(packed, scale):
    n = packed.shape[0]
    codes = torch.stack([packed & 15, packed >> 4], -1).view(n, -1).long()
    return E2M1[codes] * torch.exp2(scale.float() - 127).repeat_interleave(32, 1)


def checkpoint_tensors(spec, model, head):
    """The tensors as a published checkpoint would name and store them."""
    tensors = {}
    prefix = "model.language_model." if spec["nested"] else "model."
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and spec["tied"]:
            continue
        name = name.replace("model.", prefix, 1) if name.startswith("model.") else name
        tensors[name] = value
    if head is not None:
        tensors.update({f"mtp.{name}": value for name, value in head.state_dict().items()})
    if not spec.get("fused", True):
        for name in [n for n in tensors if n.endswith("experts.gate_up_proj")]:
            stem = name[:-len("gate_up_proj")]
            gate_up, down = tensors.pop(name), tensors.pop(stem + "down_proj")
            half = gate_up.shape[1] // 2
            for e in range(gate_up.shape[0]):
                tensors[f"{stem}{e}.gate_proj.weight"] = gate_up[e, :half]
                tensors[f"{stem}{e}.up_proj.weight"] = gate_up[e, half:]
                tensors[f"{stem}{e}.down_proj.weight"] = down[e]
    stored = {}
    for name, value in tensors.items():
        stem = name[:-len(".weight")] if name.endswith(".weight") else ""
        leaf = stem.rsplit(".", 1)[-1]
        if spec["quant"] == "fp8" and leaf in FP8_SUFFIXES:
            stored[name], stored[stem + ".weight_scale_inv"] = quantise_fp8(value)
        elif spec["quant"] == "mxfp4" and ".experts." in name:
            stored[name], stored[stem + ".weight_scale"] = quantise_mxfp4(value)
        elif name.endswith("A_log") and spec["quant"] == "mxfp4":
            stored[name] = value.float().clone()
        else:
            stored[name] = value.to(torch.bfloat16).contiguous().clone()
    return stored


def load_back(spec, stored, model, head):
    """Loads exactly what the file holds, widened to float32, into the transformers modules."""
    prefix = "model.language_model." if spec["nested"] else "model."
    wide = {}
    for name, value in stored.items():
        stem = name[:-len(".weight")] if name.endswith(".weight") else name
        if name.endswith((".weight_scale_inv", ".weight_scale")):
            continue
        if stem + ".weight_scale_inv" in stored:
            value = widen_fp8(value, stored[stem + ".weight_scale_inv"])
        elif stem + ".weight_scale" in stored:
            value = widen_mxfp4(value, stored[stem + ".weight_scale"])
        wide[name.replace(prefix, "model.", 1) if name.startswith(prefix) else name] = value.float()
    for module in (model, head):
        if module is None:
            continue
        lead = "" if module is model else "mtp."
        state = {}
        for name in module.state_dict():
            if name.endswith("experts.gate_up_proj") and lead + name not in wide:
                stem = lead + name[:-len("gate_up_proj")]
                count = module.state_dict()[name].shape[0]
                state[name] = torch.stack([torch.cat([wide[f"{stem}{e}.gate_proj.weight"], wide[f"{stem}{e}.up_proj.weight"]])
                                           for e in range(count)])
            elif name.endswith("experts.down_proj") and lead + name not in wide:
                stem = lead + name[:-len("down_proj")]
                count = module.state_dict()[name].shape[0]
                state[name] = torch.stack([wide[f"{stem}{e}.down_proj.weight"] for e in range(count)])
            elif name == "lm_head.weight" and spec["tied"]:
                state[name] = wide["model.embed_tokens.weight"]
            else:
                state[name] = wide[lead + name]
        module.load_state_dict(state, strict=True)


def config_json(spec, config):
    _, model_class, model_type = FAMILIES[spec["family"]]
    text = {k: v for k, v in config.to_dict().items() if v is not None}
    text["model_type"] = config.model_type
    text["dtype"] = "bfloat16"
    if spec["mtp"]:
        text["mtp_num_hidden_layers"] = 1
    quantisation = None
    if spec["quant"] == "fp8":
        quantisation = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    elif spec["quant"] == "mxfp4":
        quantisation = {"quant_method": "quark"}
    if spec["nested"]:
        base = model_class.__name__.replace("ForCausalLM", "ForConditionalGeneration")
        top = {"architectures": [base], "model_type": model_type, "text_config": text, "tie_word_embeddings": spec["tied"]}
    else:
        top = {"architectures": [model_class.__name__], **text}
    if quantisation:
        top["quantization_config"] = quantisation
    return top


@torch.no_grad()
def make(name, spec, out):
    generator = torch.Generator().manual_seed(sum(ord(c) * (i + 1) for i, c in enumerate(name)))
    config = text_config(spec)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    _, model_class, _ = FAMILIES[spec["family"]]
    model = model_class(config).float().eval()
    assert type(model) is model_class and model.config._experts_implementation == "eager"
    head = None
    if spec["mtp"]:
        classes = (Qwen3_5MoeDecoderLayer, Qwen3_5MoeRMSNorm) if spec["family"] == "moe" else (Qwen3_5DecoderLayer, Qwen3_5RMSNorm)
        head = DraftHead(config, *classes).float().eval()
        random_weights(head, generator)
    random_weights(model, generator, spec["tied"])

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(spec, config), indent=1) + "\n")
    save_file(checkpoint_tensors(spec, model, head), folder / "model.safetensors", metadata={"format": "pt"})
    load_back(spec, load_file(folder / "model.safetensors"), model, head)

    golden = {}
    for length in LENGTHS:
        prompt = torch.randint(3, config.vocab_size, (length,), generator=generator)
        logits = model(prompt[None]).logits[0]
        logprobs = torch.log_softmax(logits.double(), -1)
        golden[f"prompt.{length}"] = prompt.to(torch.int32)
        if length > 1:
            golden[f"logprobs.{length}"] = logprobs[:-1].gather(1, prompt[1:, None])[:, 0].float()
        golden[f"last.{length}"] = logprobs[-1].float()
        if length in GREEDY_LENGTHS:
            tokens, gaps = prompt.tolist(), []
            for _ in range(GREEDY_TOKENS):
                last = model(torch.tensor([tokens])).logits[0, -1]
                top = last.topk(2)
                gaps.append(float(top.values[0] - top.values[1]))
                tokens.append(int(top.indices[0]))
            golden[f"greedy.{length}"] = torch.tensor(tokens[length:], dtype=torch.int32)
            golden[f"greedy_gap.{length}"] = torch.tensor(gaps)
        if head is not None and length in (1, 64, 700):
            for depth in (1, 2, 3):
                rows, chain = draft_chain(model, head, prompt.tolist(), depth)
                golden[f"mtp.{depth}.{length}"] = rows
                golden[f"mtp_tokens.{depth}.{length}"] = chain
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors")
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name}: {size} bytes, mean greedy gap {golden['greedy_gap.64'].mean():.3f}, "
          f"mean log-probability {golden['logprobs.1500'].mean():.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/data/goldens"))
    parser.add_argument("--only", choices=sorted(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, spec in MODELS.items():
        if arguments.only in (None, name):
            make(name, spec, arguments.out)


if __name__ == "__main__":
    main()
