#!/usr/bin/env python3
"""Writes a block-FP8 checkpoint of the shapes in FOLDER/config.json with random weights, to time loading at real size.

Usage: checkpoint.py FOLDER [INTO]     (FOLDER: one that tools/gpu/shapes.py made; 37 GB for 35b; INTO: another place for it)
Matrices that official checkpoints quantise are FP8 with block scales, everything else is BF16; shards of about 2 GB, each
written by a process of its own, and a model.safetensors.index.json. The same 64 MiB of random codes fill every matrix, so
writing runs at the disk's speed. A tokenizer of the whole vocabulary lies beside them, so that `weir serve` takes the folder.
"""
import itertools
import json
import multiprocessing
import pathlib
import random
import struct
import sys
import time

SHARD = 2 << 30
BLOCK = 64 << 20
# Small tensors are gathered, large ones pass the buffer by.
BUFFER = 1 << 20


def tensors(config):
    """(name, dtype, shape) in the order of the file."""
    d, v = config["hidden_size"], config["vocab_size"]
    f, shared = config["moe_intermediate_size"], config["shared_expert_intermediate_size"]
    key = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    heads = config["linear_num_value_heads"]
    value = heads * config["linear_value_head_dim"]
    e, h, kv = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]

    def fp8(name, n, k):
        yield name + ".weight", "F8_E4M3", [n, k]
        yield name + ".weight_scale_inv", "BF16", [-(-n // 128), -(-k // 128)]

    def mlp(name, width):
        yield from fp8(name + ".gate_proj", width, d)
        yield from fp8(name + ".up_proj", width, d)
        yield from fp8(name + ".down_proj", d, width)

    def layer(name, full):
        yield name + ".input_layernorm.weight", "BF16", [d]
        yield name + ".post_attention_layernorm.weight", "BF16", [d]
        if full:
            a = name + ".self_attn."
            yield from fp8(a + "q_proj", 2 * h * e, d)
            yield from fp8(a + "k_proj", kv * e, d)
            yield from fp8(a + "v_proj", kv * e, d)
            yield from fp8(a + "o_proj", d, h * e)
            yield a + "q_norm.weight", "BF16", [e]
            yield a + "k_norm.weight", "BF16", [e]
        else:
            a = name + ".linear_attn."
            yield from fp8(a + "in_proj_qkv", 2 * key + value, d)
            yield from fp8(a + "in_proj_z", value, d)
            yield from fp8(a + "out_proj", d, value)
            for gate in ("in_proj_a", "in_proj_b"):
                yield a + gate + ".weight", "BF16", [heads, d]
            yield a + "conv1d.weight", "BF16", [2 * key + value, 1, 4]
            yield a + "A_log", "BF16", [heads]
            yield a + "dt_bias", "BF16", [heads]
            yield a + "norm.weight", "BF16", [config["linear_value_head_dim"]]
        m = name + ".mlp."
        yield m + "gate.weight", "BF16", [config["num_experts"], d]
        yield m + "shared_expert_gate.weight", "BF16", [1, d]
        yield from mlp(m + "shared_expert", shared)
        for expert in range(config["num_experts"]):
            yield from mlp(f"{m}experts.{expert}", f)

    yield "model.embed_tokens.weight", "BF16", [v, d]
    for i, kind in enumerate(config["layer_types"]):
        yield from layer(f"model.layers.{i}", kind == "full_attention")
    yield "model.norm.weight", "BF16", [d]
    yield "lm_head.weight", "BF16", [v, d]
    yield "mtp.fc.weight", "BF16", [d, 2 * d]
    for norm in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        yield f"mtp.{norm}.weight", "BF16", [d]
    yield from layer("mtp.layers.0", True)


def size(dtype, shape):
    count = 1
    for n in shape:
        count *= n
    return count * (1 if dtype == "F8_E4M3" else 2)


def bf16(value):
    return struct.pack("<f", value)[2:]


def write(path, part, codes, numbers):
    header, at = {}, 0
    for name, dtype, shape in part:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size(dtype, shape)]}
        at += size(dtype, shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with open(path, "wb", buffering=BUFFER) as out:
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for name, dtype, shape in part:
            left = size(dtype, shape)
            source = codes if dtype == "F8_E4M3" else numbers
            if name.endswith("scale_inv"):
                out.write(bf16(0.0005) * (left // 2))
                continue
            while left > 0:
                left -= out.write(source[:min(left, BLOCK)])


def tokenizer(vocabulary):
    """A byte-level tokenizer.json of so many ids: the 256 bytes, their pairs, and as many triples as are left."""
    # The letters that stand for bytes: printable ones for themselves, others from U+0100 on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    letters = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    pairs = [a + b for a in letters for b in letters]
    # A name, and the two that are merged into it.
    longer = itertools.chain(((a + b, a, b) for a in letters for b in letters), ((pair + c, pair, c) for pair in pairs for c in letters))
    merged = list(itertools.islice(longer, max(0, vocabulary - 256)))
    names = [*letters, *(name for name, _, _ in merged)][:vocabulary]
    return {"version": "1.0", "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)},
                      "merges": [f"{a} {b}" for _, a, b in merged]}}


def shards(config):
    parts, used = [[]], 0
    for tensor in tensors(config):
        if used > SHARD:
            parts.append([])
            used = 0
        parts[-1].append(tensor)
        used += size(*tensor[1:])
    return parts


def main():
    source = pathlib.Path(sys.argv[1])
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else source
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                     "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(config["vocab_size"]), ensure_ascii=False))
    draw = random.Random(1)
    # Codes of e4m3 without the two NaNs; bf16 numbers of +-[2^-7, 2^-5).
    codes = memoryview(draw.randbytes(1 << 20).translate(bytes(c if c & 0x7F != 0x7F else 0 for c in range(256))) * 64)
    pairs = b"".join(bytes((draw.randrange(256), 0x3C | draw.randrange(2) << 7)) for _ in range(1 << 19))
    numbers = memoryview(pairs * 64)
    parts = shards(config)
    names = [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    # Forked, so that all share the codes.
    processes = multiprocessing.get_context("fork")
    running = [processes.Process(target=write, args=(folder / name, part, codes, numbers)) for name, part in zip(names, parts)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode != 0 for process in running):
        sys.exit(f"{folder}: not all files could be written")
    index = {tensor[0]: name for name, part in zip(names, parts) for tensor in part}
    total = sum(size(*tensor[1:]) for part in parts for tensor in part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
    print(f"{folder}: {total / 1e9:.1f} GB in {len(parts)} files, {time.monotonic() - started:.1f} s")


main()
