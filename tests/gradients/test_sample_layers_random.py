"""Gram matrices of losses by sample through operations put together at random: exact, whatever is computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from .sample_matrices import N, formed

pytestmark = pytest.mark.usefixtures("double")

STEPS = {
    "linear": lambda h, w: F.linear(h, w, w.new_tensor([1.0, 2.0, 3.0])),
    "bias": lambda h, w: F.linear(h, w.detach(), w[0]),
    "product": lambda h, w: h @ w,
    "from the left": lambda h, w: w @ h,
    "of itself": lambda h, w: h @ h.mT / 4,
    "product, transposed": lambda h, w: h @ w.T.mT.T,
    "transpose": lambda h, w: h.mT,
    "first and last": lambda h, w: h.transpose(0, -1),
    "permute": lambda h, w: h.permute(*range(1, h.dim()), 0),
    "softmax": lambda h, w: h.softmax(-1),
    "softmax over the first": lambda h, w: h.softmax(0),
    "mean": lambda h, w: h + h.mean(-1, keepdim=True),
    "mean over the first": lambda h, w: h + h.mean(0, keepdim=True),
    "sum": lambda h, w: h.sum(1) if h.dim() == 3 else h,
    "sum over the first": lambda h, w: h.sum(0) if h.dim() == 3 else h,
    "expand": lambda h, w: h.unsqueeze(1).expand(N, N, N) if h.dim() == 2 else h,
    "expand before": lambda h, w: h.unsqueeze(0).expand(N, N, N) if h.dim() == 2 else h,
    "cumsum": lambda h, w: h.cumsum(-1),
    "cumsum over the first": lambda h, w: h.cumsum(0),
    "norm": lambda h, w: F.layer_norm(h, (N,)),
    "norm of all": lambda h, w: F.layer_norm(h, h.shape),
    "times a parameter": lambda h, w: h * w,
    "first rows": lambda h, w: torch.cat([h[:1], h[:-1]]),
    "first columns": lambda h, w: torch.cat([h[..., :1], h[..., :-1]], -1),
    "select": lambda h, w: h[:, 0] if h.dim() == 3 else h,
    "select the first": lambda h, w: h[0] if h.dim() == 3 else h,
    "stack": lambda h, w: torch.stack([h, h.sin()], 1).sum(1),
    "stack before": lambda h, w: torch.stack([h, h.sin()]).sum(0),
    "other order": lambda h, w: h.mT.reshape(h.shape),
    "flat": lambda h, w: h.flatten().view(h.shape).tanh(),
    "in place": lambda h, w: h.clone().mul_(2).add_(w),
    "rows in place": lambda h, w: h.clone().index_fill_(0, torch.tensor([1]), 0.5),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 1)), min_size=1, max_size=6),
    st.sampled_from([2, 3]),
    st.sampled_from([0, 1]),
)
def test_whatever_is_computed(steps, ndim, seed):
    """Operations along this dimension or that, of cubes with N in every direction, and two matrices for all of them."""
    torch.manual_seed(seed)
    w = [nn.Parameter(torch.randn(N, N)) for _ in range(2)]
    h = torch.randn((N,) * ndim) @ w[0]
    for name, which in steps:
        h = STEPS[name](h, w[which])
    losses = h.reshape(N, -1).sin().sum(1)
    reached = torch.autograd.grad(losses.sum(), w, retain_graph=True, allow_unused=True)
    formed(losses, [p for p, gradient in zip(w, reached, strict=True) if gradient is not None])
