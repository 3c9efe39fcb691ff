"""Measurements of an XS checkpoint: bits per byte, exact answers per task, draft acceptance, expert load. Used by eval.py."""

import math

import torch
import torch.nn.functional as F

import export
from model import Config, Xs

ROWS = {"cuda": 65536, "cpu": 8192}  # tokens of one forward pass: keeps float32 logits under 2 GiB and a small part of a desk machine


def load(folder, kernels="fla", device="cuda", dtype=torch.bfloat16):
    """The model of a checkpoint folder, without compilation, and its prepared weights."""
    model = Xs(Config(), kernels=kernels)
    model.load_state_dict(export.load_state(folder))
    model.set_dtype(dtype).to(device).eval()
    with torch.no_grad():
        return model, model.prepare()


def padded(rows, width, pad, device):
    out = torch.full((len(rows), width), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, :len(row)] = torch.tensor(row)
    return out.to(device)


def batches(rows, limit, multiple=64):
    """Index lists of rows of like length, so that a padded batch holds at most `limit` tokens. Yields (indices, width)."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    chosen = []
    for i in order:
        width = -(-len(rows[i]) // multiple) * multiple
        if chosen and width * (len(chosen) + 1) > limit:
            yield chosen, -(-len(rows[chosen[-1]]) // multiple) * multiple
            chosen = []
        chosen.append(i)
    if chosen:
        yield chosen, -(-len(rows[chosen[-1]]) // multiple) * multiple


@torch.no_grad()
def documents(model, prepared, tokenizer, texts, device="cuda"):
    """Each text alone after <|endoftext|>: (nats, tokens, bytes) summed, and the mean share of choices per layer and expert."""
    eot = tokenizer.token_to_id("<|endoftext|>")
    rows = [[eot] + tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    nats, tokens, load, passes = 0.0, 0, 0.0, 0
    for chosen, width in batches(rows, ROWS[device]):
        ids = padded([rows[i] for i in chosen], width, eot, device)
        hidden, loads = model.trunk(prepared, ids)
        logits = F.linear(hidden, prepared[1]).unflatten(0, ids.shape)
        for j, i in enumerate(chosen):
            n = len(rows[i]) - 1
            nats += F.cross_entropy(logits[j, :n].float(), ids[j, 1:n + 1], reduction="sum").item()
            tokens += n
        load = load + torch.stack([x[0] for x in loads])
        passes += 1
    return nats, tokens, sum(len(t.encode()) for t in texts), (load / passes).cpu()


@torch.no_grad()
def exact(model, prepared, tokenizer, items, device="cuda"):
    """Per item whether greedy decoding gives the answer and <|im_end|> token for token; also the nats and bytes of all answers.

    Greedy decoding gives exactly the expected tokens if and only if each is the best guess after those before it: one pass shows it.
    """
    end = tokenizer.token_to_id("<|im_end|>")
    rows, starts = [], []
    for item in items:
        prompt = tokenizer.encode(item["prompt"], add_special_tokens=False).ids
        rows.append(prompt + tokenizer.encode(item["answer"], add_special_tokens=False).ids + [end])
        starts.append(len(prompt))
    right, nats = [False] * len(items), 0.0
    for chosen, width in batches(rows, ROWS[device]):
        ids = padded([rows[i] for i in chosen], width, end, device)
        hidden = model.trunk(prepared, ids)[0].unflatten(0, ids.shape)
        for j, i in enumerate(chosen):
            logits = F.linear(hidden[j, starts[i] - 1:len(rows[i]) - 1], prepared[1]).float()
            wanted = ids[j, starts[i]:len(rows[i])]
            right[i] = bool((logits.argmax(-1) == wanted).all())
            nats += F.cross_entropy(logits, wanted, reduction="sum").item()
    return right, nats, sum(len(i["answer"].encode()) for i in items)


@torch.no_grad()
def generate(model, prepared, prompts, fresh, stop, device="cuda"):
    """Greedy continuation of token lists, whole prefix each step (no cache). Returns the full rows."""
    width = -(-(max(map(len, prompts)) + fresh) // 64) * 64
    ids = padded(prompts, width, stop, device)
    ends = torch.tensor([len(p) for p in prompts], device=device)
    index, going = torch.arange(len(prompts), device=device), torch.ones(len(prompts), dtype=torch.bool, device=device)
    for _ in range(fresh):
        hidden = model.trunk(prepared, ids)[0].unflatten(0, ids.shape)
        best = F.linear(hidden[index, ends - 1], prepared[1]).float().argmax(-1)
        ids[index[going], ends[going]] = best[going]
        ends = ends + going
        going = going & (best != stop)
        if not going.any():
            break
    return [row[:n].tolist() for row, n in zip(ids, ends.tolist())]


@torch.no_grad()
def acceptance(model, prepared, rows, starts, stop, device="cuda"):
    """Draft acceptance along greedy text: rows whose tokens from starts[i] on are the model's own best guesses.

    Returns, for 1, 2 and 3 drafts, tokens per verify step (its own token included), and the conditional acceptance by draft position.
    """
    width = -(-max(map(len, rows)) // 64) * 64
    ids = padded(rows, width, stop, device)
    hidden, _ = model.trunk(prepared, ids)
    following = F.pad(ids[:, 1:], (0, 1), value=stop)
    drafts, _ = model.drafts(prepared, hidden, following, 3)
    guesses = [F.linear(d, prepared[1]).unflatten(0, ids.shape).float().argmax(-1).tolist() for d in drafts]
    tried, taken = [0] * 3, [0] * 3
    steps, tokens = [0] * 3, [0] * 3
    for r, row in enumerate(rows):
        last = len(row) - 1
        for i in range(starts[r] - 1, last - 3):  # token i+1 is known, drafts are for i+2 ..
            for s in range(3):
                tried[s] += 1
                if guesses[s][r][i + s] != row[i + s + 2]:
                    break
                taken[s] += 1
        for k in range(3):
            i = starts[r] - 1
            while i < last - 3:
                good = 0
                while good <= k and guesses[good][r][i + good] == row[i + good + 2]:
                    good += 1
                steps[k] += 1
                tokens[k] += good + 1
                i += good + 1
    return {"conditional": [a / max(1, t) for a, t in zip(taken, tried)], "tokens_per_step": [t / max(1, s) for t, s in zip(tokens, steps)]}


def bits(nats, size):
    return nats / math.log(2) / max(1, size)
