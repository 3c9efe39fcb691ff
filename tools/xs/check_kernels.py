#!/usr/bin/env python3
"""Compares the delta-rule kernels with the recurrence as written down: outputs and gradients. Exit status 1 where fla's are wrong.

    check_kernels.py [--device cuda]
"""

import argparse
import sys
import time

import torch

from model import KERNELS


def inputs(device, batch, length, dtype):
    generator = torch.Generator(device).manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, device=device, generator=generator)

    q, k = (torch.nn.functional.normalize(normal(batch, length, 2, 128), dim=-1) for _ in range(2))
    values = [q, k, normal(batch, length, 4, 128), -torch.nn.functional.softplus(normal(batch, length, 4)) * 0.3, torch.sigmoid(normal(batch, length, 4))]
    return [x.to(dtype if i < 3 else torch.float32).requires_grad_() for i, x in enumerate(values)]


def run(kernel, device, dtype):
    values = inputs(device, 2, 256, dtype)
    out = KERNELS[kernel](*values)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).to(device, out.dtype)
    out.backward(grad)
    return [out.detach().float()] + [x.grad.float() for x in values]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    truth = run("plain", device, torch.float32)
    worst = 0.0
    for kernel in ("chunked", "fla") if device == "cuda" else ("chunked",):
        found = run(kernel, device, torch.bfloat16 if device == "cuda" else torch.float32)
        errors = [((a - b).norm() / b.norm()).item() for a, b in zip(found, truth)]
        print(kernel, "relative errors of o, dq, dk, dv, dg, dbeta:", " ".join(f"{e:.1e}" for e in errors), flush=True)
        worst = max(errors)
        if device == "cuda":
            values = inputs(device, 64, 2048, torch.bfloat16)
            for _ in range(3):
                torch.cuda.synchronize()
                begin = time.time()
                KERNELS[kernel](*values).sum().backward()
                torch.cuda.synchronize()
            print(f"{kernel}: {1e3 * (time.time() - begin):.1f} ms forward and backward of 131072 tokens", flush=True)
    sys.exit(worst > 0.03)


if __name__ == "__main__":
    main()
