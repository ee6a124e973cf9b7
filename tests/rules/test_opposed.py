"""Two opposed gradients: what rounding leaves of them is no direction, and an optimizer must not follow it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rule import Signals
from gradweight.rules import (
    IMTLG,
    MGDA,
    AdaptiveWeights,
    AngleBisector,
    ConFIG,
    DualProj,
    NashMTL,
    OrthogonalProjection,
    PCGrad,
    UPGrad,
)

RULES = (
    AngleBisector(),
    NashMTL(),
    ConFIG(),
    IMTLG(),
    PCGrad(),
    UPGrad(),
    MGDA(),
    OrthogonalProjection(favour="real"),
    OrthogonalProjection(favour="fake", normalized=False),
    OrthogonalProjection(favour="real", when="conflict"),
    AdaptiveWeights(epsilon=0.0),
    AdaptiveWeights(epsilon_mode="relative"),
    AdaptiveWeights(epsilon=0.0, normalized=False, alpha1=0.1, alpha2=0.1),
)
SCORES = {"real_score": 0.6, "fake_score": 0.5}
LENGTHS = st.floats(2**-10, 2**10, width=32)


def signals(rule: object) -> dict[str, float]:
    return {name: value for name, value in SCORES.items() if name in Signals.of(rule).known}


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(deadline=None, max_examples=50)
@given(first=LENGTHS, second=LENGTHS, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_nothing_is_left_of_two_opposed_gradients(
    rule: object, first: float, second: float, dtype: torch.dtype
) -> None:
    p = nn.Parameter(torch.zeros(1, dtype=dtype))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=1.0), rule)
    opt.backward({"real": first * p.sum(), "fake": -second * p.sum()}, **signals(rule))
    assert torch.equal(p.grad, torch.zeros_like(p))


@pytest.mark.parametrize("rule", [*RULES, DualProj()], ids=repr)
@settings(deadline=None, max_examples=50)
@given(first=LENGTHS, second=LENGTHS, angle=st.floats(-2, 0).map(lambda power: 10.0**power))
def test_a_direction_that_there_is_is_followed(rule: object, first: float, second: float, angle: float) -> None:
    """In single precision, at 0.01 radian from opposed and more."""
    p = nn.Parameter(torch.zeros(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=1.0), rule)
    turned = torch.tensor([-1.0, angle]) / (1 + angle**2) ** 0.5
    opt.backward({"real": first * p[0], "fake": second * (turned * p).sum()}, **signals(rule))
    direction = p.grad.double() / p.grad.double().norm()
    # rounding of the two terms, 1e-7 each, beside what is left of them, at least 0.01
    assert direction[0] > -1e-4
    assert (turned.double() * direction).sum() > -1e-4


def test_the_bias_of_a_critic_with_a_block_of_its_own_stays_where_it_is() -> None:
    """Adam makes a step of the learning rate of whatever it is given."""

    def moved(rule: object) -> Tensor:
        bias = nn.Parameter(torch.zeros(1))
        opt = MultiObjectiveGradient(torch.optim.Adam([bias], lr=0.01), rule)
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            real, fake = torch.rand(2, generator=generator)
            opt.zero_grad()
            opt.backward({"real": -real * bias.sum(), "fake": fake * bias.sum()})
            opt.step()
        return bias.detach()

    assert moved(AngleBisector()) == 0
    assert moved(OrthogonalProjection(favour="real")) == 0
