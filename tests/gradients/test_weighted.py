"""Rules that need no gradients: one backward of the weighted sum, the same direction as from one for each loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradweight.rules import (
    FAMO,
    IMTLL,
    AngleBisector,
    GeometricMean,
    SmoothTchebycheff,
)

from .loss_level import NAMES, Harmonic, all_gradients, batch, every_rule, named, network, same, sgd, train, walks_of

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
