"""Rules that need no gradients: one backward of the weighted sum, the same direction as from one for each loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    DWA,
    FAMO,
    IMTLL,
    AngleBisector,
    GeometricMean,
    SmoothTchebycheff,
    Uncertainty,
)

from ..optimizers import assert_resumes_bit_for_bit

NAMES = ("a", "b", "c")


class Harmonic:
    """A user's own: w_i = 1 / L_i^2 over the sum of these, and a signal."""

    needs_gradients = False

    def __call__(self, gram: Tensor, /, *, losses: Tensor, sharpness: Tensor | float = 2.0) -> Tensor:
        weights = losses**-sharpness
        return weights / weights.sum()


LOSS_LEVEL = [Uncertainty(0.5), DWA(), FAMO(0.7), SmoothTchebycheff(mu=0.5), GeometricMean(), IMTLL(0.3), Harmonic()]
every_rule = pytest.mark.parametrize("rule", LOSS_LEVEL, ids=lambda rule: type(rule).__name__)


def all_gradients(rule: Any) -> Any:
    """The same rule, its statement that it needs no gradients taken back."""
    twin = copy.copy(rule)
    object.__setattr__(twin, "__class__", type("All", (type(rule),), {"needs_gradients": True}))
    return twin


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(i: int, n: int = 8) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def named(y: Tensor) -> dict[str, Tensor]:
    return {
        "a": 0.1 * y[:, 0].square().mean(),
        "b": 9 * (y[:, 1] - 1).abs().mean(),
        "c": (y[:, 2] - y[:, 1]).exp().mean(),
    }


def sgd(net: nn.Module, rule: Any, **settings: Any) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.02), rule, **settings)


def train(net: nn.Module, opt: MultiObjectiveGradient, steps: range) -> None:
    for i in steps:
        opt.zero_grad()
        opt.backward(named(net(batch(i))))
        opt.step()


def same(one: nn.Module, other: nn.Module, rtol: float = 1e-10) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-13)


def walks_of(net: nn.Sequential) -> list[Tensor]:
    """Grows by one entry whenever a backward walks through the first layer."""
    walks: list[Tensor] = []
    net[0].register_forward_hook(lambda *out: (out[2].register_hook(walks.append), None)[1])
    return walks


# ---- one backward, the same direction


@every_rule
def test_the_trunk_is_walked_once(rule) -> None:
    for tried, expected in ((rule, 1), (all_gradients(rule), 3)):
        net = network()
        walks = walks_of(net)
        sgd(net, tried).backward(named(net(batch(0))))
        assert len(walks) == expected


@every_rule
@pytest.mark.parametrize("settings", [{}, {"accumulate": False}, {"engine": "hooks"}], ids=str)
def test_steps_are_those_of_single_gradients(rule, settings) -> None:
    net, twin = network(), network()
    opt, full = sgd(net, rule, **settings), sgd(twin, all_gradients(rule))
    for i in range(5):
        params = list(net.parameters())
        rows = [
            torch.autograd.grad(v, params, retain_graph=True, allow_unused=True) for v in named(net(batch(i))).values()
        ]
        opt.zero_grad()
        seen = opt.backward(named(net(batch(i))))
        for p, gradients in zip(params, zip(*rows, strict=True), strict=True):
            terms = [w * g for w, g in zip(seen.weights, gradients, strict=True) if g is not None]
            torch.testing.assert_close(p.grad, sum(terms), rtol=1e-12, atol=1e-15)
        train(twin, full, range(i, i + 1))
        assert full.last is not None
        torch.testing.assert_close(
            [seen.losses, seen.weights], [full.last.losses, full.last.weights], rtol=1e-9, atol=0
        )
        opt.step()
    same(net, twin)


def test_a_function_can_say_it_too() -> None:
    def first_only(gram, /, *, losses):
        return (losses == losses[0]).to(losses)

    first_only.needs_gradients = False
    net = network()
    walks = walks_of(net)
    seen = sgd(net, first_only).backward(named(net(batch(0))))
    assert len(walks) == 1
    assert seen.weights.tolist() == [1, 0, 0]


def test_what_is_not_known_is_nan() -> None:
    net = network()
    seen = sgd(net, GeometricMean()).backward(named(net(batch(0))))
    assert seen.gram.shape == (3, 3)
    assert seen.gram.isnan().all()
    flat = seen.as_dict()
    assert flat["weight/a"] > 0
    assert "nan" in str(seen)


def test_signals_reach_the_rule() -> None:
    net = network()
    values = named(net(batch(0)))
    seen = sgd(net, Harmonic()).backward(values, sharpness=1.0)
    inverse = 1 / torch.stack(list(values.values())).detach()
    torch.testing.assert_close(seen.weights, inverse / inverse.sum())


# ---- the ways in


def by_function(net: nn.Module, i: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda p: named(torch.func.functional_call(net, p, (batch(i),)))


def by_functions(net: nn.Module, i: int) -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    return {name: lambda p, name=name: by_function(net, i)(p)[name] for name in NAMES}


@pytest.mark.parametrize("way", [by_function, by_functions])
@pytest.mark.parametrize("engine", ["auto", "func", "autograd", "hooks"])
def test_functions(way, engine) -> None:
    net, twin = network(), network()
    opt, expected = sgd(net, FAMO(0.7), engine=engine), sgd(twin, FAMO(0.7))
    for i in range(3):
        opt.zero_grad()
        with torch.no_grad():
            opt.backward(way(net, i))
        opt.step()
        train(twin, expected, range(i, i + 1))
    same(net, twin)


@every_rule
@pytest.mark.parametrize("factor", [1.0, 1024.0])
def test_join_under_a_loss_scale(rule, factor) -> None:
    net, twin = network(), network()
    opt, expected = sgd(net, rule), sgd(twin, rule)
    for i in range(3):
        opt.zero_grad()
        (opt.join(named(net(batch(i)))) * factor).backward()
        for p in net.parameters():
            p.grad /= factor
        opt.step()
        train(twin, expected, range(i, i + 1))
        torch.testing.assert_close(opt.last.weights, expected.last.weights, rtol=1e-12, atol=0)
    same(net, twin)


@every_rule
def test_scaler(rule) -> None:
    net, twin = network(), network()
    opt, expected = sgd(net, rule), sgd(twin, rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for i in range(3):
        opt.zero_grad()
        opt.backward(named(net(batch(i))), scaler=scaler)
        scaler.step(opt)
        scaler.update()
        train(twin, expected, range(i, i + 1))
    same(net, twin)


def test_with_refresh_every_the_state_rests_in_between() -> None:
    net = network()
    opt = sgd(net, IMTLL(0.3), refresh_every=2)
    sizes = []
    for i in range(4):
        walks = walks_of(net)
        train(net, opt, range(i, i + 1))
        assert len(walks) == 1
        sizes.append(opt.param_groups[0]["rule_state"]['state of IMTLL for ["a", "b", "c"]']["sizes"].clone())
    assert torch.equal(sizes[0], sizes[1])
    assert torch.equal(sizes[2], sizes[3])
    assert not torch.equal(sizes[1], sizes[2])


@pytest.mark.parametrize("where", ["blocks", "shared"])
def test_single_gradients_where_the_direction_is_no_weighted_sum(where) -> None:
    net = network()
    opt = sgd(net, GeometricMean(), blocks="layer" if where == "blocks" else None)
    hidden = net[:2](batch(0))
    seen = opt.backward(named(net[2](hidden)), **({"shared": hidden} if where == "shared" else {}))
    assert seen.gram.isfinite().all()


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


def states(opt: MultiObjectiveGradient) -> list[Tensor]:
    saved = opt.param_groups[0].get("rule_state", {})
    return [value for state in saved.values() for value in state.values()]


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


# ---- errors


def test_a_loss_that_reaches_nothing_is_named() -> None:
    net = network()
    stray = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="the loss 'stray' reaches none of the parameters"):
        sgd(net, GeometricMean()).backward(named(net(batch(0))) | {"stray": stray * 2})


def test_a_failure_leaves_everything_as_it_was() -> None:
    net = network()
    opt = sgd(net, SmoothTchebycheff({"a": 1.0, "b": 1.0, "c": 1.0}))
    opt.backward({name: loss / 2 for name, loss in named(net(batch(0))).items()})
    before = [p.grad.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match="need the same losses"):
        opt.backward({"a": named(net(batch(1)))["a"]})
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="no preference for the loss 'd'"):
        sgd(net, opt.rule).backward({"d": named(net(batch(1)))["a"]})


def test_the_bisector_still_sees_gradients() -> None:
    net = network()
    walks = walks_of(net)
    assert sgd(net, AngleBisector()).backward(named(net(batch(0)))).gram.isfinite().all()
    assert len(walks) == 3
