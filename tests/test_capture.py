"""Whole steps as CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient
from gradweight.capture import capture_step
from gradweight.rules import AdaptiveWeights


def test_a_step_needs_to_be_warmed_up() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        capture_step(lambda x: x, warmup=0)


def test_a_batch_that_is_not_on_the_device_is_named() -> None:
    called: list[int] = []
    with pytest.raises(ValueError, match="CUDA device"):
        capture_step(lambda x: called.append(1))(torch.ones(2))
    assert not called


def training() -> tuple[nn.Module, torch.optim.lr_scheduler.LRScheduler, object]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).cuda()
    base = torch.optim.Adam(net.parameters(), lr=torch.tensor(1e-2, device="cuda"), capturable=True)
    opt = MultiObjectiveGradient(base, AdaptiveWeights())

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        opt.zero_grad()
        real, fake = net(batch["real"]), net(batch["fake"])
        scores = {"real_score": real.sigmoid().mean(), "fake_score": fake.sigmoid().mean()}
        seen = opt.backward({"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}, **scores)
        opt.step()
        return seen.weights

    return net, torch.optim.lr_scheduler.ExponentialLR(opt, 0.9), step


@pytest.mark.cuda
def test_captured_steps_are_eager_steps() -> None:
    net, schedule, step = training()
    reference, plain_schedule, plain = training()
    captured = capture_step(step, warmup=2)  # type: ignore[arg-type]
    for i in range(8):
        torch.manual_seed(100 + i)
        batch = {"real": torch.randn(32, 2, device="cuda"), "fake": torch.randn(32, 2, device="cuda")}
        found, expected = captured(batch), plain(batch)  # type: ignore[operator]
        # the eager ones are by Triton kernels, which add up in another order
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        schedule.step()
        plain_schedule.step()
    assert captured._graph is not None
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"float32\[32, 2\] on cuda:0.*float32\[31, 2\]"):
        captured({name: x[:31] for name, x in batch.items()})
