"""Every parameter has real coordinates of its own, two for each complex entry."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rules import GradDrop, TrimmedMean

from .test_rows import DTYPES


@pytest.mark.parametrize("rule", [TrimmedMean(1), GradDrop()], ids=["TrimmedMean", "GradDrop"])
def test_a_rule_by_coordinate_sees_a_complex_gradient_as_its_real_and_imaginary_parts(rule):
    targets = torch.randn(3, 2, 5, 2, dtype=torch.float64)

    def directions(params, real):
        opt = MultiObjectiveGradient(torch.optim.SGD(params, 0.1), rule)
        opt.backward(
            {
                name: sum((real(p) - t).square().sum() for p, t in zip(params, target, strict=True))
                for name, target in zip("abc", targets, strict=True)
            }
        )
        return [real(p.grad) for p in params]

    start = torch.randn(2, 5, 2, dtype=torch.float64)
    as_complex = directions([nn.Parameter(torch.view_as_complex(p.clone())) for p in start], torch.view_as_real)
    as_real = directions([nn.Parameter(p.clone()) for p in start], lambda p: p)
    for ours, theirs in zip(as_complex, as_real, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 0


class Spread:
    """A coordinate rule that notes which coordinates it is told that it has."""

    def __init__(self):
        self.seen = []

    def combine(self, rows, /, *, offset):
        self.seen.append((offset, offset + rows[0].numel()))
        return rows.sum(0)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(DTYPES)), max_size=5))
def test_every_parameter_has_coordinates_of_its_own(kinds):
    """One range after the other, whichever of the parameters are complex; through functions too."""
    params = {
        str(i): nn.Parameter(torch.randn(n).to(dtype)) for i, (n, dtype) in enumerate([(1, torch.float32), *kinds])
    }

    def losses(params):
        return {name: sum(p.abs().pow(k).float().sum() for p in params.values()) for name, k in (("a", 1), ("b", 2))}

    real = [(p.numel() * (2 if p.is_complex() else 1)) for p in params.values()]
    ends = list(itertools.accumulate(real))
    expected = [(end - n, end) for n, end in zip(real, ends, strict=True)]

    spread = Spread()
    MultiObjectiveGradient(torch.optim.SGD(params.values(), 0.1), spread).backward(losses(params))
    assert spread.seen == [(a, b) for a, b in expected if a < b]

    spread = Spread()
    direction, _ = combined_grad(losses, spread)({name: p.detach() for name, p in params.items()})
    assert spread.seen == expected
    for name, p in params.items():
        torch.testing.assert_close(direction[name], p.grad if p.numel() else direction[name], rtol=1e-2, atol=1e-2)
