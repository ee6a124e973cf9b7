"""Gradients that autograd expands or shares, or that somebody else holds, are not written to."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    Constant,
    Sum,
)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_gradients_that_autograd_expands_or_shares(accumulate, engine):
    """sum() returns an expanded tensor, a + b one tensor for both: neither may be added to or combined in place."""
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    opt = MultiObjectiveGradient(torch.optim.SGD([a, b], lr=0.0), Sum(), engine=engine, accumulate=accumulate)
    micro_batches = 3 if accumulate else 1
    for _ in range(2):
        opt.zero_grad()
        for _ in range(micro_batches):
            opt.backward({"x": a.sum(), "y": (a + b).square().sum(), "z": 5 * (a + b).sum()})
        n = micro_batches
        assert a.grad.tolist() == [n * (1 + 4 + 5)] * 3
        assert b.grad.tolist() == [n * (4 + 5)] * 3
        assert a.grad.untyped_storage().data_ptr() != b.grad.untyped_storage().data_ptr()
        opt.step()


class SavedGradient(torch.autograd.Function):
    """Computes its gradient in forward and returns it as it is, as fused losses do."""

    @staticmethod
    def forward(ctx, p, gradient):
        ctx.save_for_backward(gradient)
        return (p * gradient).sum()

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.saved_tensors[0], None


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_a_gradient_that_somebody_else_holds_is_not_written_to(accumulate, engine):
    p, held = nn.Parameter(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0])
    base, rule = torch.optim.SGD([p], lr=0.0), Constant({"x": 2.0})
    opt = MultiObjectiveGradient(base, rule, engine=engine, accumulate=accumulate)
    for _ in range(2 if accumulate else 1):
        opt.backward({"x": SavedGradient.apply(p, held)})
    assert held.tolist() == [1.0, 2.0, 3.0]
    assert p.grad.tolist() == ([4.0, 8.0, 12.0] if accumulate else [2.0, 4.0, 6.0])
