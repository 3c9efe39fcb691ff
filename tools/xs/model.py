"""The XS model: a small hybrid mixture-of-experts network in the shape of qwen3_5_moe, with its draft (MTP) head.

Letters: N = B*T tokens of the step, D model width, E = X+1 experts (the shared expert is the last), I expert width.
Every linear weight is [out, in]. Parameters are float32; `prepare` makes the bfloat16 (or block-FP8-rounded) weights of one step.
All experts are computed for all tokens and masked: at 16 experts of width 128 two plain matrix products beat any dispatch.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

FP8_MAX = 448.0  # largest finite e4m3fn value
FP8_BLOCK = 128


@dataclass
class Config:
    vocab: int = 8192
    width: int = 256
    layers: int = 8
    experts: int = 16
    top_k: int = 4
    expert_width: int = 128
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 256
    rotary_dim: int = 64
    rope_theta: float = 1e7
    key_heads: int = 2
    value_heads: int = 4
    linear_dim: int = 128
    conv: int = 4
    full_every: int = 4
    eps: float = 1e-6

    def is_full(self, layer):
        return (layer + 1) % self.full_every == 0


def fp8_block(weight):
    """Block-FP8 of a [.., out, in] weight whose sides are multiples of 128: (e4m3 codes, bf16 scale per 128x128 block)."""
    *lead, rows, columns = weight.shape
    blocks = weight.float().reshape(*lead, rows // FP8_BLOCK, FP8_BLOCK, columns // FP8_BLOCK, FP8_BLOCK)
    scale = (blocks.abs().amax(dim=(-3, -1), keepdim=True) / FP8_MAX).clamp_min(1e-12).to(torch.bfloat16)
    codes = (blocks / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return codes.reshape(weight.shape), scale.reshape(*lead, rows // FP8_BLOCK, columns // FP8_BLOCK)


def fp8_restore(codes, scale):
    """The float32 weight that block-FP8 codes and scales stand for."""
    wide = scale.float().repeat_interleave(FP8_BLOCK, -2).repeat_interleave(FP8_BLOCK, -1)
    return codes.float() * wide


class RoundFp8(torch.autograd.Function):
    """Rounds to block-FP8 and back; the gradient passes as if nothing happened."""

    @staticmethod
    def forward(ctx, weight):
        return fp8_restore(*fp8_block(weight)).to(torch.bfloat16)

    @staticmethod
    def backward(ctx, grad):
        return grad.float()


def norm(x, weight, eps):
    """Zero-centred RMS norm over the last dimension, in float32."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (y * (1.0 + weight)).to(x.dtype)


def rotate(x, position, c):
    """Half-split rotary embedding of the first rotary_dim dimensions. x [N, heads, head_dim], position [N]."""
    half = c.rotary_dim // 2
    power = torch.arange(half, device=x.device, dtype=torch.float32) * (-math.log(c.rope_theta) / half)
    angle = position.float()[:, None] * power.exp()[None]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second, rest = x[..., :half].float(), x[..., half:2 * half].float(), x[..., 2 * half:]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
    return torch.cat([turned, rest], -1)


def linear_in(h, position, norm_w, w_in, conv_w, a_log, dt_bias, c):
    """First half of a Gated DeltaNet layer: q, k [N, key_heads, 128] (unit length), v, z [N, value_heads, 128], g, beta [N, value_heads]."""
    kd, vd, nv = c.key_heads * c.linear_dim, c.value_heads * c.linear_dim, c.value_heads
    u = F.linear(norm(h, norm_w, c.eps), w_in)
    rows, z, b, a = u.split([2 * kd + vd, vd, nv, nv], -1)
    mixed = rows.float() * conv_w[:, c.conv - 1]
    for back in range(1, c.conv):
        shifted = F.pad(rows, (0, 0, back, 0))[:rows.shape[0]]
        mixed = mixed + torch.where((position >= back)[:, None], shifted.float(), 0.0) * conv_w[:, c.conv - 1 - back]
    mixed = F.silu(mixed)
    q, k, v = mixed.split([kd, kd, vd], -1)

    def unit(x):
        x = x.reshape(-1, c.key_heads, c.linear_dim)
        return (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)).to(h.dtype)

    g = -a_log.exp() * F.softplus(a.float() + dt_bias)
    return unit(q), unit(k), v.reshape(-1, nv, c.linear_dim).to(h.dtype), z, g, torch.sigmoid(b.float())


def full_in(h, position, norm_w, w_in, q_norm, k_norm, c):
    """First half of an attention layer: q, gate [N, heads, head_dim], k, v [N, kv_heads, head_dim]."""
    u = F.linear(norm(h, norm_w, c.eps), w_in)
    qg, k, v = u.split([2 * c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim], -1)
    q, gate = qg.reshape(-1, c.heads, 2, c.head_dim).unbind(2)
    q = rotate(norm(q, q_norm, c.eps), position, c)
    k = rotate(norm(k.reshape(-1, c.kv_heads, c.head_dim), k_norm, c.eps), position, c)
    return q, gate, k, v.reshape(-1, c.kv_heads, c.head_dim)


def moe(h, norm_w, router, shared_gate, gate_up, down, c):
    """Residual MoE block. gate_up [E*2I, D], down [D, E*I]. Returns h and, per routed expert, its share of choices and mean probability."""
    x = norm(h, norm_w, c.eps)
    p = torch.softmax(F.linear(x.float(), router), -1)
    chosen = p >= p.topk(c.top_k, -1).values[:, -1:]
    weight = torch.where(chosen, p, 0.0)
    weight = weight / weight.sum(-1, keepdim=True)
    shared = torch.sigmoid(F.linear(x.float(), shared_gate))
    weight = torch.cat([weight, shared], -1)
    u = F.linear(x, gate_up).reshape(-1, c.experts + 1, 2, c.expert_width)
    act = F.silu(u[:, :, 0].float()) * u[:, :, 1].float() * weight[:, :, None]
    out = F.linear(act.to(h.dtype).reshape(h.shape[0], -1), down)
    return h + out, chosen.float().mean(0) / c.top_k, p.mean(0)


def linear_out(h, o, z, gated_norm, w_out, moe_args, c):
    """Second half of a Gated DeltaNet layer and the MoE block. o, z [N, value_heads*128]."""
    y = o.reshape(-1, c.value_heads, c.linear_dim).float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + c.eps) * gated_norm
    y = y * F.silu(z.reshape(y.shape).float())
    return moe(h + F.linear(y.to(h.dtype).reshape(h.shape[0], -1), w_out), *moe_args, c)


def full_out(h, o, gate, w_out, moe_args, c):
    """Second half of an attention layer and the MoE block. o, gate [N, heads, head_dim]."""
    y = o.float() * torch.sigmoid(gate.float())
    return moe(h + F.linear(y.to(h.dtype).reshape(h.shape[0], -1), w_out), *moe_args, c)


def mtp_in(e, hidden, norm_e, norm_h, fc, c):
    return F.linear(torch.cat([norm(e, norm_e, c.eps), norm(hidden, norm_h, c.eps)], -1), fc)


def delta_rule_plain(q, k, v, g, beta):
    """The recurrence as written down, token by token. q, k [B, T, Hk, K]; v [B, T, Hv, V]; g, beta [B, T, Hv]. For tests and the CPU."""
    group = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(group, 2).float() for x in (q, k))
    q = q * q.shape[-1] ** -0.5
    state = torch.zeros(v.shape[0], v.shape[2], q.shape[-1], v.shape[-1], device=v.device)
    out = []
    for t in range(v.shape[1]):
        state = state * g[:, t, :, None, None].exp()
        delta = beta[:, t, :, None] * (v[:, t].float() - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + k[:, t, :, :, None] * delta[:, :, None, :]
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(out, 1).to(v.dtype)


def delta_rule_chunked(q, k, v, g, beta, chunk=64):
    """The same recurrence by chunks of 64 tokens, out of matrix products only. Shapes as above; T is a multiple of the chunk."""
    dtype, group = v.dtype, v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(group, 2) for x in (q, k))
    q, k, v = (x.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4) for x in (q * q.shape[-1] ** -0.5, k, v))  # [B, H, n, C, dim]
    g, beta = (x.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2).float() for x in (g, beta))
    total = g.cumsum(-1)
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    decay = torch.where(lower, total[..., :, None] - total[..., None, :], -math.inf).exp()
    a = (k @ k.mT).float() * decay * beta[..., None]
    power = -torch.where(lower.tril(-1), a, 0.0)
    inverse = power + torch.eye(chunk, device=q.device)
    for _ in range(5):  # (I + A)^-1 = (I - A)(I + A^2)(I + A^4)...: A is nilpotent of order 64
        power = power @ power
        inverse = inverse + inverse @ power
    inverse = inverse.to(dtype)
    u = inverse @ (v * beta[..., None]).to(dtype)
    w = inverse @ (k * (beta * total.exp())[..., None]).to(dtype)
    inner = ((q @ k.mT).float() * decay).to(dtype)
    q_in = (q * total.exp()[..., None]).to(dtype)
    k_out = (k * (total[..., -1:] - total).exp()[..., None]).to(dtype)
    last = total[..., -1].exp()
    state = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], device=q.device)
    out = []
    for n in range(q.shape[2]):
        low = state.to(dtype)
        fresh = u[:, :, n] - w[:, :, n] @ low
        out.append(q_in[:, :, n] @ low + inner[:, :, n] @ fresh)
        state = state * last[:, :, n, None, None] + (k_out[:, :, n].mT @ fresh).float()
    return torch.stack(out, 2).permute(0, 2, 3, 1, 4).flatten(1, 2)


def fla_delta_rule(q, k, v, g, beta):
    """flash-linear-attention's kernels. It refuses Triton 3.4 to 3.7.0 on Hopper because of a compiler fault that shows with 64-wide key
    blocks only; here the key dimension is 128 and one block wide, so the refusal is lifted. check_kernels.py compares the gradients."""
    import fla.ops.common.chunk_o as chunk_o
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    chunk_o.TRITON_ABOVE_3_7_1 = True
    return chunk_gated_delta_rule(q, k, v, g, beta)[0]


KERNELS = {"fla": fla_delta_rule, "chunked": delta_rule_chunked, "plain": delta_rule_plain}


class Block(nn.Module):
    """Parameters of one layer; the computation is in the functions above."""

    def __init__(self, c, full):
        super().__init__()
        self.full = full

        def matrix(*shape, gain=1.0):
            return nn.Parameter(torch.randn(*shape) * gain * shape[-1] ** -0.5)

        d = c.width
        self.input_norm, self.post_norm = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        if full:
            self.q, self.k = matrix(2 * c.heads * c.head_dim, d), matrix(c.kv_heads * c.head_dim, d)
            self.v, self.out = matrix(c.kv_heads * c.head_dim, d), matrix(d, c.heads * c.head_dim, gain=0.2)
            self.q_norm, self.k_norm = nn.Parameter(torch.zeros(c.head_dim)), nn.Parameter(torch.zeros(c.head_dim))
        else:
            kd, vd, nv = c.key_heads * c.linear_dim, c.value_heads * c.linear_dim, c.value_heads
            self.qkv, self.z, self.out = matrix(2 * kd + vd, d), matrix(vd, d), matrix(d, vd, gain=0.2)
            self.a, self.b = matrix(nv, d, gain=0.5), matrix(nv, d, gain=0.5)
            self.conv = nn.Parameter(torch.randn(2 * kd + vd, c.conv) * 0.3)
            # Decay rates spread from almost none to one in a few tokens, as in the published initialisation of gated delta nets.
            self.a_log = nn.Parameter(torch.linspace(1.0, 8.0, nv).log())
            dt = torch.exp(torch.linspace(math.log(1e-3), math.log(1e-1), nv))
            self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
            self.gated_norm = nn.Parameter(torch.ones(c.linear_dim))
        self.router, self.shared_gate = matrix(c.experts, d, gain=0.5), nn.Parameter(torch.zeros(1, d))
        self.gate_up = matrix(c.experts + 1, 2 * c.expert_width, d)
        self.down = matrix(c.experts + 1, d, c.expert_width, gain=0.2)

    FP8 = ("q", "k", "v", "out", "qkv", "z", "gate_up", "down")

    def prepare(self, quantise):
        """The weights of one step: a tuple (w_in, w_out, gate_up, down) in bfloat16."""
        def cast(name):
            weight = getattr(self, name)
            return RoundFp8.apply(weight) if quantise and name in self.FP8 else weight.to(self.dtype)

        inputs = ("q", "k", "v") if self.full else ("qkv", "z", "b", "a")
        gate_up, down = cast("gate_up"), cast("down")
        return (torch.cat([cast(n) for n in inputs]), cast("out"), gate_up.flatten(0, 1), down.permute(1, 0, 2).flatten(1))

    dtype = torch.bfloat16


class Xs(nn.Module):
    def __init__(self, c=None, kernels="chunked", compiled=False):
        super().__init__()
        self.c = c = c or Config()
        self.embed = nn.Parameter(torch.randn(c.vocab, c.width) * 0.04)
        self.blocks = nn.ModuleList(Block(c, c.is_full(i)) for i in range(c.layers))
        self.final_norm = nn.Parameter(torch.zeros(c.width))
        self.mtp_block = Block(c, True)
        self.mtp_fc = nn.Parameter(torch.randn(c.width, 2 * c.width) * (2 * c.width) ** -0.5)
        self.mtp_norm_e, self.mtp_norm_h, self.mtp_norm = (nn.Parameter(torch.zeros(c.width)) for _ in range(3))
        self.kernels = kernels
        functions = dict(linear_in=linear_in, full_in=full_in, linear_out=linear_out, full_out=full_out, mtp_in=mtp_in, norm=norm, losses=losses)
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.f = {name: wrap(function) for name, function in functions.items()}

    def set_dtype(self, dtype):
        for block in [*self.blocks, self.mtp_block]:
            block.dtype = dtype
        self.dtype = dtype
        return self

    dtype = torch.bfloat16

    def prepare(self, quantise=False):
        """The weights of one step: per block (model's, then the draft's), the embedding, and the draft's input matrix."""
        return [b.prepare(quantise) for b in [*self.blocks, self.mtp_block]], self.embed.to(self.dtype), self.mtp_fc.to(self.dtype)

    def moe_args(self, block, w):
        return (block.post_norm, block.router, block.shared_gate, w[2], w[3])

    def attend(self, q, k, v, mask=None):
        """q [B, T, heads, head_dim], k, v [B, S, kv_heads, head_dim]; causal without a mask, else a boolean mask [T, S]."""
        group = self.c.heads // self.c.kv_heads
        k, v = (x.repeat_interleave(group, 2).transpose(1, 2) for x in (k, v))
        o = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None)
        return o.transpose(1, 2)

    def run_block(self, block, w, h, position, batch):
        c = self.c
        if not block.full:
            q, k, v, z, g, beta = self.f["linear_in"](h, position, block.input_norm, w[0], block.conv, block.a_log, block.dt_bias, c)
            o = KERNELS[self.kernels](*(x.unflatten(0, (batch, -1)) for x in (q, k, v, g, beta)))
            return self.f["linear_out"](h, o.flatten(0, 1), z, block.gated_norm, w[1], self.moe_args(block, w), c)
        q, gate, k, v = self.f["full_in"](h, position, block.input_norm, w[0], block.q_norm, block.k_norm, c)
        o = self.attend(*(x.unflatten(0, (batch, -1)) for x in (q, k, v)))
        return self.f["full_out"](h, o.flatten(0, 1), gate, w[1], self.moe_args(block, w), c)

    def trunk(self, prepared, tokens):
        """tokens [B, T] -> hidden rows after the final norm [N, D], and per layer (choices, probability) for the balance loss."""
        blocks, embed, _ = prepared
        batch, length = tokens.shape
        position = torch.arange(length, device=tokens.device, dtype=torch.int32).repeat(batch)
        h = F.embedding(tokens.flatten(), embed)
        loads = []
        for block, w in zip(self.blocks, blocks):
            h, chosen, probability = self.run_block(block, w, h, position, batch)
            loads.append((chosen, probability))
        return self.f["norm"](h, self.final_norm, self.c.eps), loads

    def drafts(self, prepared, hidden, following, steps):
        """Hidden rows of `steps` draft steps. hidden [N, D] of the trunk, following [B, T] = the next token of every position.

        Step s at position p continues the chain that began at p-s+1: it takes the row of step s-1 at p-1, and attends to step 1's
        rows up to p-s+1 and to the one row of every later step of its own chain, exactly as drafting with a cache does.
        Rows with p < s-1 have no chain and mean nothing.
        """
        c, w, block = self.c, prepared[0][-1], self.mtp_block
        batch, length = following.shape
        position = torch.arange(length, device=following.device, dtype=torch.int32).repeat(batch)
        e = F.embedding(following.flatten(), prepared[1])
        keys, values, rows, loads = [], [], [], []
        source = hidden
        for step in range(steps):
            if step:
                source = F.pad(rows[-1].unflatten(0, (batch, length))[:, :-1], (0, 0, 1, 0)).flatten(0, 1)
            x = self.f["mtp_in"](e, source, self.mtp_norm_e, self.mtp_norm_h, prepared[2], c)
            q, gate, k, v = self.f["full_in"](x, position, block.input_norm, w[0], block.q_norm, block.k_norm, c)
            q, k, v = (y.unflatten(0, (batch, -1)) for y in (q, k, v))
            keys.append(k)
            values.append(v)
            mask = chain_mask(length, step, following.device) if step else None
            o = self.attend(q, torch.cat(keys, 1), torch.cat(values, 1), mask)
            x, chosen, probability = self.f["full_out"](x, o.flatten(0, 1), gate, w[1], self.moe_args(block, w), c)
            loads.append((chosen, probability))
            rows.append(self.f["norm"](x, self.mtp_norm, c.eps))
        return rows, loads


def chain_mask(length, step, device):
    """Which rows draft step `step` (0-based, at least 1) sees: [T, (step+1)*T], true where seen."""
    p = torch.arange(length, device=device)[:, None]
    j = torch.arange(length, device=device)[None]
    parts = [j <= p - step] + [j == p - (step - s) for s in range(1, step + 1)]
    return torch.cat(parts, 1)


def losses(hidden, embed, targets, weight):
    """Sum of weighted cross entropies and of weights, and the number of right top-1 guesses among rows of full weight."""
    logits = F.linear(hidden, embed).float()
    nats = F.cross_entropy(logits, targets, reduction="none")
    right = ((logits.argmax(-1) == targets) & (weight >= 1.0)).float().sum()
    return (nats * weight).sum(), weight.sum(), right


def balance_loss(loads):
    """X * sum(share of choices * mean probability), averaged over layers: 1 when all experts are used alike."""
    return torch.stack([chosen.numel() * (chosen.detach() * probability).sum() for chosen, probability in loads]).mean()
