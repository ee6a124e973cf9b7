"""Post-accumulate-grad hooks run on the combined gradient, once for each backward, whatever the engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.gradients.engines import Engine
from gradweight.rules import AngleBisector


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def losses_of(net: nn.Module, reentrant: bool = False) -> dict[str, Tensor]:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    y: Any = checkpoint(net, x, use_reentrant=True) if reentrant else net(x)
    return {"a": y[:, 0].square().mean(), "b": 3 * y[:, 1].mean()}


@pytest.mark.parametrize(
    ("engine", "reentrant", "how"),
    [
        ("autograd", False, "backward"),
        ("batched", False, "backward"),
        ("hooks", False, "backward"),
        ("hooks", True, "backward"),
        ("auto", False, "join"),
    ],
)
def test_they_see_the_combined_gradient(engine: Engine, reentrant: bool, how: str) -> None:
    net, reference = network(), network()
    seen: list[Tensor] = []
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), engine=engine)
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))  # type: ignore[union-attr]
    expected = MultiObjectiveGradient(torch.optim.SGD(reference.parameters(), lr=0.1), AngleBisector())
    expected.backward(losses_of(reference))
    for _ in range(2):
        opt.zero_grad()
        if how == "join":
            opt.join(losses_of(net)).backward()
        else:
            opt.backward(losses_of(net, reentrant))
    assert len(seen) == 2 * 4
    for found, p in zip(seen, [*reference.parameters()] * 2, strict=True):
        torch.testing.assert_close(found, p.grad, rtol=1e-12, atol=1e-14)


def test_what_they_do_to_it_stays_and_micro_batches_go_on() -> None:
    """Clipping parameter by parameter: of the sum over micro-batches, not of what was clipped before."""
    net, reference = network(), network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    expected = MultiObjectiveGradient(torch.optim.SGD(reference.parameters(), lr=0.1), AngleBisector())
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(lambda p: p.grad.clamp_(-0.05, 0.05))  # type: ignore[union-attr]
    for _ in range(2):
        for _ in range(2):
            opt.backward(losses_of(net))
            expected.backward(losses_of(reference))
        for p in reference.parameters():
            assert p.grad is not None
            assert p.grad.abs().max() > 0.05
            p.grad.clamp_(-0.05, 0.05)
        for each in (opt, expected):
            each.step()
            each.zero_grad()
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q)


def step_and_free(p: Tensor) -> None:
    p.grad = None


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_an_optimizer_in_the_backward_pass_is_named(engine: Engine) -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), engine=engine)
    net[0].weight.register_post_accumulate_grad_hook(step_and_free)
    with pytest.raises(RuntimeError, match=r"test_grad_hooks\.step_and_free has cleared \.grad.*LossBalancer"):
        opt.backward(losses_of(net))
    opt.zero_grad()
    net[0].weight._post_accumulate_grad_hooks.clear()
    opt.backward(losses_of(net))
    opt.step()
