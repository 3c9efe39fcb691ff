#!/usr/bin/env python3
"""Trains weir-xs on one GPU inside a fixed time: warm-up, steady rate, decay to zero at the end of the time.

    train.py --corpus C --facts F --tokenizer T --work FOLDER --seconds 1300 [--bench STEPS]

Needs torch, flash-linear-attention and tokenizers. Batches are made by worker processes (data.py). Every --save-every seconds a bfloat16
checkpoint is written to FOLDER/latest, at the end the block-FP8 one to FOLDER/final and the float state to FOLDER/state.pt.
"""

import argparse
import math
import os
import pathlib
import shutil
import sys
import time

import torch

import data
import export
from model import Config, Xs, balance_loss
from muon import Muon

TOKENS = 131072  # of one step: enough rows for the gradient of a 22M model, few enough for thousands of steps
WARMUP_STEPS = 100
DECAY_FROM = 0.68  # share of the time after which the rate falls linearly
CHAINS_FROM = 0.50  # from here on the draft head is trained on chains of three drafts
CHAIN_ROWS = 32768  # tokens of the step whose chains are unrolled: the masked attention over three sets of keys is the dear part
ROUND_FROM = 0.85  # from here on the forward pass sees weights rounded to block FP8
CHAIN_WEIGHTS = (0.8, 0.6)  # of the second and the third draft
MUON_RATE, ADAM_RATE = 0.012, 0.003


def optimizers(model):
    """Muon for the matrices inside the layers, AdamW for embeddings, routers, gates and vectors."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        leaf = name.split(".")[-1]
        (matrices if leaf in ("q", "k", "v", "out", "qkv", "z", "gate_up", "down", "mtp_fc") else others).append(parameter)
    return Muon(matrices), torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=True)


def rate_share(step, progress):
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (1.0 if progress < DECAY_FROM else max(0.01, (1.0 - progress) / (1.0 - DECAY_FROM)))


def batch_to_device(batch):
    ids, weights = (torch.from_numpy(x) for x in batch)
    ids = ids.pin_memory().to("cuda", non_blocking=True).long()
    weights = weights.pin_memory().to("cuda", non_blocking=True).float() * 0.01
    return ids, weights


def weighted(model, rows, embed, targets, weight):
    total, mass, right = model.f["losses"](rows, embed, targets.reshape(-1), weight.reshape(-1))
    return total / mass, right / (weight >= 1.0).sum().clamp_min(1)


def forward(model, batch, progress):
    """The loss of one step and the figures to log."""
    ids, weights = batch
    length = ids.shape[1] - 2
    tokens, following, beyond = ids[:, :length], ids[:, 1:length + 1], ids[:, 2:]
    prepared = model.prepare(progress >= ROUND_FROM)
    hidden, loads = model.trunk(prepared, tokens.contiguous())
    main, right = weighted(model, hidden, prepared[1], following, weights[:, 1:length + 1])
    rows, draft_loads = model.drafts(prepared, hidden, following.contiguous(), 1)
    draft, draft_right = weighted(model, rows[0], prepared[1], beyond, weights[:, 2:])
    chains, mass = draft, 1.0
    if progress >= CHAINS_FROM and length == 2048:
        few = CHAIN_ROWS // length
        rows, _ = model.drafts(prepared, hidden[:few * length], following[:few].contiguous(), 3)
        for row, share in zip(rows[1:], CHAIN_WEIGHTS):
            loss, _ = weighted(model, row, prepared[1], beyond[:few], weights[:few, 2:])
            chains, mass = chains + share * loss, mass + share
    draft_weight = 0.3 - 0.15 * progress
    balance = balance_loss(loads + draft_loads)
    balance_weight = 1e-2 * (0.1 ** min(1.0, progress / 0.7))
    loss = main + draft_weight * (chains if mass == 1.0 else chains * (1.6 / mass)) + balance_weight * balance
    shares = torch.stack([chosen for chosen, _ in loads + draft_loads])
    return loss, torch.stack([main.detach(), draft.detach(), (chains / mass).detach(), right, draft_right, balance.detach(),
                              shares.min() * 16, shares.max() * 16])


def save(model, folder, tokenizer, fp8):
    """Writes the checkpoint into a new folder and puts it in place of the old one."""
    folder = pathlib.Path(folder)
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copy(tokenizer, fresh / "tokenizer.json")
    export.write_folder(fresh, model.state_dict(), model.c, fp8=fp8)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def train(model, queue, shared, options):
    muon, adam = optimizers(model)
    begin, last_save, step, logged, seen = time.time(), time.time(), 0, time.time(), 0
    figures = torch.zeros(8, device="cuda")
    while True:
        now = time.time()
        progress = min(1.0, options.at + (1.0 - options.at) * (now - begin) / options.seconds) if not options.bench else options.at
        if progress >= 1.0 or (options.bench and step >= options.bench):
            return step
        shared.value = progress
        share = rate_share(step, progress)
        loss, row = forward(model, batch_to_device(queue.get()), progress)
        loss.backward()
        muon.step(options.muon_rate * share)
        for group in adam.param_groups:
            group["lr"] = options.adam_rate * share
        adam.step()
        model.zero_grad(set_to_none=True)
        figures += row
        step += 1
        seen += 1
        if step % options.log_every == 0:
            main, draft, chain, right, draft_right, balance, low, high = (figures / seen).tolist()
            speed = seen * TOKENS / (time.time() - logged)
            print(f"step {step} at {progress:.3f} loss {main:.4f} draft {draft:.4f} chain {chain:.4f} right {right:.4f} {draft_right:.4f} "
                  f"balance {balance:.3f} load {low:.2f}..{high:.2f} {speed / 1e3:.0f}k tok/s queue {queue.qsize()} "
                  f"mem {torch.cuda.max_memory_allocated() / 2**30:.0f}G", flush=True)
            if not math.isfinite(main):
                sys.exit("the loss is not finite")
            figures.zero_()
            logged, seen = time.time(), 0
        if now - last_save > options.save_every:
            save(model, f"{options.work}/latest", options.tokenizer, False)
            last_save = time.time()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "facts", "tokenizer", "work"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--seconds", type=float, default=1300)
    parser.add_argument("--save-every", type=float, default=240)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--bench", type=int, default=0, help="stop after this many steps")
    parser.add_argument("--at", type=float, default=0.0, help="the progress to begin with; with --bench, the one that is played throughout")
    parser.add_argument("--init", help="begin with the weights of this checkpoint folder")
    parser.add_argument("--kernels", default="fla", choices=["fla", "chunked"])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--muon-rate", type=float, default=MUON_RATE)
    parser.add_argument("--adam-rate", type=float, default=ADAM_RATE)
    options = parser.parse_args()
    torch.manual_seed(7)
    start = time.time()
    corpus_folder = f"{options.work}/corpus"
    if not os.path.exists(corpus_folder):
        print(data.tokenise_corpus(options.corpus, options.tokenizer, corpus_folder, 16), flush=True)
    queue, shared, workers = data.start_workers(options.jobs, TOKENS, corpus_folder, options.tokenizer, options.facts, options.corpus)
    print(f"workers started after {time.time() - start:.1f} s", flush=True)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = 64
    model = Xs(Config(), kernels=options.kernels, compiled=True).cuda()
    if options.init:
        model.load_state_dict(export.load_state(options.init))
    print("parameters", sum(p.numel() for p in model.parameters()), flush=True)
    steps = train(model, queue, shared, options)
    print(f"{steps} steps, {steps * TOKENS / 1e6:.0f}M tokens, {time.time() - start:.0f} s in all", flush=True)
    torch.save({k: v.cpu() for k, v in model.state_dict().items()}, f"{options.work}/state.pt")
    save(model, f"{options.work}/latest", options.tokenizer, False)
    save(model, f"{options.work}/final", options.tokenizer, True)
    print("done", flush=True)
    for process in workers:
        process.terminate()
    os._exit(0)


if __name__ == "__main__":
    main()
