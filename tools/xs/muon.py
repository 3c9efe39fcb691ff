"""Muon: momentum whose matrices are made orthogonal by Newton-Schulz steps (Muon, 2024), for stacks of equal matrices."""

import torch

# Coefficients of the quintic step that drives singular values towards one fast (from the published method).
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(matrices, steps=5):
    """[M, r, c] -> about the nearest matrices with all singular values one."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Plain optimizer over matrices ([r, c]) and stacks of them ([E, r, c]); equal shapes go through Newton-Schulz together.

    A stack of fused gate and up rows [E, 2I, D] counts as 2E matrices. The update of an [r, c] matrix is scaled by sqrt(max(1, r/c)).
    """

    def __init__(self, parameters, momentum=0.95, decay=0.02):
        self.momentum, self.decay = momentum, decay
        self.groups = {}
        for parameter in parameters:
            self.groups.setdefault(self.view(parameter).shape[1:], []).append(parameter)
        self.buffers = {shape: None for shape in self.groups}

    @staticmethod
    def view(tensor):
        if tensor.dim() == 2:
            return tensor[None]
        if tensor.shape[1] == tensor.shape[2]:  # gate over up
            return tensor.reshape(tensor.shape[0] * 2, tensor.shape[1] // 2, tensor.shape[2])
        return tensor

    @torch.no_grad()
    def step(self, rate):
        for shape, parameters in self.groups.items():
            grad = torch.cat([self.view(p.grad) for p in parameters])
            if self.buffers[shape] is None:
                self.buffers[shape] = torch.zeros_like(grad)
            buffer = self.buffers[shape]
            buffer.lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(buffer, self.momentum)).float()
            scale = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            at = 0
            for parameter in parameters:
                seen = self.view(parameter)
                parameter.mul_(1 - rate * self.decay)
                seen.add_(update[at:at + seen.shape[0]], alpha=-scale)
                at += seen.shape[0]
