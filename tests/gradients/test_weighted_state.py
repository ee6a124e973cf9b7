"""Rules that need no gradients, over micro-batches and checkpoints, and where something is not finite."""

from __future__ import annotations

import copy

import pytest
import torch

from gradweight.rules import (
    DWA,
    FAMO,
    GeometricMean,
    Uncertainty,
)

from ..optimizers import assert_resumes_bit_for_bit
from .loss_level import LOSS_LEVEL, batch, every_rule, named, network, same, sgd, states, train

# ---- micro-batches


@every_rule
@pytest.mark.parametrize("joined", [False, True])
def test_micro_batches_are_weighted_by_the_losses_so_far(rule, joined) -> None:
    """The state, and the weights of the last micro-batch, are those of the big batch."""
    net, whole = network(), network()
    opt, big = sgd(net, rule), sgd(whole, rule)
    params = list(net.parameters())
    for i in range(3):
        x = batch(i, 12)
        for p, q in zip(net.parameters(), whole.parameters(), strict=True):
            q.data.copy_(p)
        opt.zero_grad()
        expected = [torch.zeros_like(p) for p in params]
        for part in x.chunk(3):
            share = 1 if joined else 1 / 3
            values = {name: loss * share for name, loss in named(net(part)).items()}
            if joined:
                (opt.join(values) / 3).backward()
            else:
                opt.backward(values)
            assert opt.last is not None
            losses = named(net(part))
            weighted = sum(w * v for w, v in zip(opt.last.weights, losses.values(), strict=True)) / 3
            for total, g in zip(expected, torch.autograd.grad(weighted, params), strict=True):
                total += g
        for p, total in zip(params, expected, strict=True):
            torch.testing.assert_close(p.grad, total, rtol=1e-11, atol=1e-14)
        big.zero_grad()
        seen = big.backward(named(whole(x)))
        torch.testing.assert_close([opt.last.losses, opt.last.weights], [seen.losses, seen.weights], rtol=1e-11, atol=0)
        if isinstance(rule, (Uncertainty, DWA)):  # whose weights were known before the step
            for p, q in zip(net.parameters(), whole.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-11, atol=1e-14)
        opt.step()
        big.step()
        for a, b in zip(states(opt), states(big), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-14)


# ---- what a rule remembers


@pytest.mark.parametrize("rule", [r for r in LOSS_LEVEL if hasattr(r, "init")], ids=lambda rule: type(rule).__name__)
def test_resume_is_bit_for_bit(rule) -> None:
    assert_resumes_bit_for_bit(
        network, lambda net: sgd(net, rule), lambda net, opt, *steps: train(net, opt, range(*steps)), 2, 5
    )


def test_state_is_kept_when_the_step_is_taken() -> None:
    net = network()
    opt = sgd(net, Uncertainty(0.5))
    opt.backward(named(net(batch(0))))
    opt.zero_grad()
    assert states(opt) == []
    train(net, opt, range(1))
    (variances,) = states(opt)
    torch.testing.assert_close(
        variances, opt.last.losses + (1 - opt.last.losses) * torch.tensor(-0.25, dtype=torch.float64).exp()
    )


# ---- what is not finite, and what is zero


@every_rule
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_reaches_every_gradient(rule, bad) -> None:
    """Also one whose gradient is finite, and whatever weight the rule would have given it."""
    net = network()
    opt = sgd(net, rule)
    values = named(net(batch(0)))
    seen = opt.backward(values | {"b": values["b"] + bad})
    assert all(p.grad.isnan().all() for p in net.parameters())
    assert seen.weights.isnan().all()


@every_rule
def test_a_gradient_that_is_not_finite_reaches_every_gradient(rule) -> None:
    net = network()
    opt = sgd(net, rule)
    y = net(batch(0))
    seen = opt.backward({"a": y[:, 0].square().mean(), "b": 1 + (y[:, 1] * 0).sqrt().sum(), "c": y[:, 2].exp().mean()})
    assert seen.losses.isfinite().all()
    assert all(p.grad.isnan().all() for p in net.parameters())
    assert seen.weights.isnan().all()


def test_a_step_that_the_scaler_skips_leaves_the_state() -> None:
    net = network()
    opt = sgd(net, Uncertainty(0.5))
    scaler = torch.amp.GradScaler("cpu")
    opt.backward({name: loss * torch.inf for name, loss in named(net(batch(0))).items()}, scaler=scaler)
    before = copy.deepcopy(net)
    scaler.step(opt)
    same(net, before)
    assert states(opt) == []


@pytest.mark.parametrize("rule", [FAMO(0.7), GeometricMean()], ids=lambda rule: type(rule).__name__)
def test_a_satisfied_hinge_does_not_stop_the_others(rule) -> None:
    net, without = network(), network()
    opt, other = sgd(net, rule), sgd(without, rule)
    for i in range(3):
        for model, optimizer, hinge in ((net, opt, True), (without, other, False)):
            y = model(batch(i))
            values = {"a": y[:, 0].square().mean(), "c": y[:, 2].exp().mean()}
            if hinge:
                values["hinge"] = (y[:, 1] - 100).relu().mean()
            optimizer.zero_grad()
            optimizer.backward(values)
            optimizer.step()
    same(net, without)
