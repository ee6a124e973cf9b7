"""Mixed precision: `.grad` carries the loss scale, the rule never sees it, and an overflow skips the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import Combination, MultiObjectiveGradient
from gradweight.rules import AngleBisector, Constant, OrthogonalProjection, Sum

from .hosts.problem import assert_same, batches, bisector, by_hand, losses, network

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, foreach=False),
    "SGD foreach": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, foreach=True),
    "SGD fused": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, fused=True),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.05, foreach=False),
    "Adam foreach": lambda params: torch.optim.Adam(params, lr=0.05, foreach=True),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=0.05, fused=True),
}
BASE = pytest.mark.parametrize("base", list(BASES))
HOW = pytest.mark.parametrize("how", ["scaler=", "join"])

SCALE = 1024.0  # a power of two: scaling and unscaling are then exact


def scaler(**settings: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **({"init_scale": SCALE} | settings))


def gather(opt: MultiObjectiveGradient, how: str, values: dict[str, Tensor], scaler: torch.amp.GradScaler) -> None:
    if how == "join":
        scaler.scale(opt.join(values)).backward()
    else:
        opt.backward(values, scaler=scaler)


def grads(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters()]


@HOW
def test_grad_is_scaled_and_what_was_seen_is_not(how: str) -> None:
    net = network()
    batch = batches()[0]
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    plain = opt.backward(losses(net, *batch))
    expected = grads(net)
    opt.zero_grad()

    scaling = scaler()
    gather(opt, how, losses(net, *batch), scaling)
    for g, e in zip(grads(net), expected, strict=True):
        torch.testing.assert_close(g, SCALE * e, rtol=1e-6, atol=0)
    seen = opt.last
    assert seen is not None
    for field in ("losses", "gram", "weights"):
        torch.testing.assert_close(getattr(seen, field), getattr(plain, field), rtol=1e-6, atol=0)

    scaling.unscale_(opt)
    for g, e in zip(grads(net), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-6, atol=0)


@HOW
def test_a_rule_that_knows_absolute_sizes_sees_the_unscaled_gram_over_micro_batches(how: str) -> None:
    seen: list[Tensor] = []

    def rule(gram: Tensor, /, *, losses: Tensor) -> Tensor:
        seen.append(torch.cat([gram.flatten(), losses]))
        return 1 / (1.0 + gram.diagonal().sqrt())  # an epsilon of 1: with scaled gradients it would be none

    def train(scaling: torch.amp.GradScaler) -> nn.Module:
        net = network()
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule)
        seen.clear()  # what it was probed with
        for i, batch in enumerate(batches()):
            gather(opt, how, {name: loss / 3 for name, loss in losses(net, *batch).items()}, scaling)
            if i % 3 == 2:
                scaling.step(opt)
                scaling.update()
                opt.zero_grad()
        return net

    plain = train(scaler(enabled=False))
    unscaled = torch.stack(seen)
    seen.clear()
    scaled = train(scaler())
    torch.testing.assert_close(torch.stack(seen), unscaled, rtol=1e-5, atol=0)
    assert_same(scaled.state_dict(), plain.state_dict())


@HOW
@BASE
@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.5}, {"clip_value": 0.05}], ids=["unclipped", "norm", "value"])
def test_unscale_clip_step_update(base: str, clip: dict[str, float], how: str) -> None:
    net = network()
    opt = MultiObjectiveGradient(BASES[base](net.parameters()), AngleBisector())
    scaling = scaler(growth_interval=4)
    for batch in batches():
        gather(opt, how, losses(net, *batch), scaling)
        if "clip_norm" in clip:
            scaling.unscale_(opt)
            nn.utils.clip_grad_norm_(net.parameters(), clip["clip_norm"])
        elif "clip_value" in clip:
            scaling.unscale_(opt)
            nn.utils.clip_grad_value_(net.parameters(), clip["clip_value"])
        scaling.step(opt)
        scaling.update()
        opt.zero_grad()
    assert scaling.get_scale() == 8 * SCALE  # twelve steps without an overflow: it grew three times
    assert_same(net.state_dict(), by_hand(base=lambda params, lr: BASES[base](params), **clip))


RULES = {
    "AngleBisector": AngleBisector(),
    "Sum": Sum(),
    "weight 0 for fit": Constant({"fit": 0.0, "size": 1.0}),
    "weight 0 for size": Constant({"fit": 1.0, "size": 0.0}),
    "follows size alone": OrthogonalProjection(favour="size", protect=()),
}


@HOW
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("which", ["fit", "size"])
@pytest.mark.parametrize(("base", "unscale"), [("SGD", False), ("AdamW fused", True)])
def test_an_overflow_in_any_one_loss_skips_the_step_and_halves_the_scale(
    base: str, which: str, value: float, rule: str, how: str, unscale: bool
) -> None:
    net = network()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    opt = MultiObjectiveGradient(BASES[base](net.parameters()), RULES[rule])
    scaling = scaler()
    values = losses(net, *batches()[0])
    values[which] = values[which] * value
    gather(opt, how, values, scaling)
    if unscale:
        scaling.unscale_(opt)
    scaling.step(opt)
    scaling.update()
    assert scaling.get_scale() == SCALE / 2
    assert_same(net.state_dict(), before, tolerance=0.0)

    opt.zero_grad()
    gather(opt, how, losses(net, *batches()[0]), scaling)
    scaling.step(opt)
    scaling.update()
    assert scaling.get_scale() == SCALE / 2
    assert any(not torch.equal(p, before[name]) for name, p in net.state_dict().items())
    assert all(torch.isfinite(p).all() for p in net.parameters())


@HOW
@pytest.mark.parametrize("rule", list(RULES))
def test_an_overflow_reaches_the_parameters_that_its_loss_does_not(rule: str, how: str) -> None:
    """Each optimizer or shard looks at its own `.grad` only, so all of them must tell."""
    nets = network(), network()
    params = [p for net in nets for p in net.parameters()]
    opt = MultiObjectiveGradient(torch.optim.SGD(params, lr=0.1), RULES[rule])
    x, y = batches()[0]
    values = {"fit": losses(nets[0], x, y)["fit"], "size": losses(nets[1], x, y)["size"] * torch.inf}
    gather(opt, how, values, scaler())
    assert all(p.grad.isnan().all() for p in params)


@HOW
def test_an_overflow_in_one_micro_batch_skips_the_whole_step(how: str) -> None:
    net = network()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    scaling = scaler()
    for i, batch in enumerate(batches()[:3]):
        values = losses(net, *batch)
        if i == 1:
            values["size"] = values["size"] * torch.inf
        gather(opt, how, values, scaling)
    scaling.step(opt)
    scaling.update()
    assert scaling.get_scale() == SCALE / 2
    assert_same(net.state_dict(), before, tolerance=0.0)


@HOW
def test_a_scale_too_large_for_float16_comes_down_until_steps_are_taken(how: str) -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=1e-3), AngleBisector())
    scaling = scaler(init_scale=2.0**16)
    scales = []
    for batch in batches():
        before = [p.detach().clone() for p in net.parameters()]
        with torch.autocast("cpu", dtype=torch.float16):
            values = losses(net, *batch)
        gather(opt, how, values, scaling)
        overflow = any(not torch.isfinite(p.grad).all() for p in net.parameters())
        scales.append(scaling.get_scale())
        scaling.step(opt)
        scaling.update()
        opt.zero_grad()
        assert scaling.get_scale() == (scales[-1] / 2 if overflow else scales[-1])
        assert overflow == all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert 2.0**16 == scales[0] > scales[-1] == scales[-2]


@HOW
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, how: str) -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.05), AngleBisector())
    scaling = scaler(enabled=dtype is torch.float16)
    for batch in batches():
        with torch.autocast("cpu", dtype=dtype):
            values = losses(net, *batch)
        gather(opt, how, values, scaling)
        scaling.step(opt)
        scaling.update()
        opt.zero_grad()
    expected = by_hand(base=torch.optim.SGD, autocast=dtype)
    # float16 gradients below 6e-8 are lost without a scale, which is what the scale is for: the loop by hand has none
    assert_same(net.state_dict(), expected, tolerance=1e-6 if dtype is torch.bfloat16 else 1e-3)


@HOW
def test_backward_inside_the_autocast_context_computes_in_full_precision(how: str) -> None:
    """Matrix products of an m x m Gram matrix in bfloat16 would cost two digits of every weight."""
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.05), AngleBisector())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = losses(net, *batches()[0])
        gather(opt, how, values, scaler(enabled=False))
    seen: Combination | None = opt.last
    assert seen is not None
    assert seen.gram.dtype == seen.weights.dtype == torch.float32
    rows = [torch.autograd.grad(loss, list(net.parameters())) for loss in _under_autocast(net).values()]
    for p, g in zip(net.parameters(), bisector(rows), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-5, atol=1e-7)


def _under_autocast(net: nn.Module) -> dict[str, Tensor]:
    losses_of_their_own = {}
    for name in ("fit", "size"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses_of_their_own[name] = losses(net, *batches()[0])[name]
    return losses_of_their_own


def test_losses_of_different_dtypes_join() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.05), AngleBisector())
    x, y = batches()[0]
    values = losses(net, x, y) | {"half": net(x).bfloat16().sum(), "double": net(x).double().square().sum()}
    total = opt.join(values)
    total.backward()
    by_join = grads(net)
    opt.zero_grad()
    values = losses(net, x, y) | {"half": net(x).bfloat16().sum(), "double": net(x).double().square().sum()}
    opt.backward(values)
    for found, expected in zip(by_join, grads(net), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        float(total.detach()), sum(float(v.detach()) for v in values.values()), rtol=1e-2, atol=0
    )


def test_one_scaler_for_two_wrapped_optimizers() -> None:
    nets = network(), network()
    plain = [MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.05), AngleBisector()) for net in nets]
    scaling = scaler()
    for i, batch in enumerate(batches()):
        overflow = torch.inf if i == 4 else 1.0
        for k, (net, opt) in enumerate(zip(nets, plain, strict=True)):
            values = losses(net, *batch)
            values["fit"] = values["fit"] * (overflow if k == 0 else 1.0)
            opt.backward(values, scaler=scaling)
            scaling.step(opt)
        scaling.update()
        for opt in plain:
            opt.zero_grad()
    # the first network skipped a step, the second did not, and both are what that makes them
    assert_same(nets[1].state_dict(), by_hand(base=torch.optim.SGD))
    found, other = (next(iter(net.parameters())) for net in nets)
    assert not torch.equal(found, other)
    assert scaling.get_scale() == SCALE / 2
