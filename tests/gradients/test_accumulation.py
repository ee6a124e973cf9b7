"""Micro-batches add up per loss: four of them give the direction of the big batch."""

import copy

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    DWA,
    AdaptiveWeights,
    AngleBisector,
    Constant,
    GradNorm,
    Mean,
    OrthogonalProjection,
    Sum,
)


def network(dtype=torch.float32):
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def discriminator(net, real, fake):
    """Mean losses and scores of a batch."""
    r, f = net(real), net(fake)
    losses = {"real": nn.functional.softplus(-r).mean(), "fake": nn.functional.softplus(f).mean()}
    return losses, {"real_score": r.sigmoid().mean(), "fake_score": f.sigmoid().mean()}


def relative(found, expected):
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (found, expected))
    return float((a - b).norm() / b.norm())


def grads(net):
    return [p.grad.clone() for p in net.parameters()]


def backward(opt, net, real, fake, share=1.0):
    losses, scores = discriminator(net, real, fake)
    wanted = scores if isinstance(opt.rule, AdaptiveWeights) else {}
    return opt.backward({name: loss * share for name, loss in losses.items()}, **wanted)


RULES = [Sum(), Mean(), AngleBisector(), OrthogonalProjection(favour="real", protect="fake"), AdaptiveWeights()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_four_micro_batches_are_the_big_batch(rule, engine):
    """Scores are averaged, losses and gradients are summed: in float32 to 1e-6 of the direction's length."""
    net, real, fake = network(), torch.randn(64, 6), torch.randn(64, 6) + 1
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule, engine=engine)
    big = backward(opt, net, real, fake)
    expected = grads(net)
    opt.zero_grad()
    for r, f in zip(real.chunk(4), fake.chunk(4), strict=True):
        seen = backward(opt, net, r, f, share=1 / 4)
    assert relative(grads(net), expected) < 1e-6
    torch.testing.assert_close([seen.losses, seen.gram, seen.weights], [big.losses, big.gram, big.weights])
    # and the next step starts from nothing
    opt.zero_grad()
    backward(opt, net, real, fake)
    assert relative(grads(net), expected) < 1e-6


def test_adding_up_directions_would_not_be():
    """What the above is for: combining every micro-batch by itself is several percent away."""
    net, real, fake = network(), torch.randn(64, 6), torch.randn(64, 6) + 1
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    backward(opt, net, real, fake)
    expected = grads(net)
    directions = []
    for r, f in zip(real.chunk(4), fake.chunk(4), strict=True):
        opt.zero_grad()
        backward(opt, net, r, f, share=1 / 4)
        directions.append(grads(net))
    summed = [sum(tensors) / 4 for tensors in zip(*directions, strict=True)]
    assert relative(summed, expected) > 1e-2


def test_grad_holds_the_combination_of_what_is_there_after_each_micro_batch():
    net, x = network(torch.float64), torch.randn(12, 6, dtype=torch.float64)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    other = copy.deepcopy(net)
    alone = MultiObjectiveGradient(torch.optim.SGD(other.parameters(), lr=0.1), AngleBisector())
    for k in range(3):
        part = x[4 * k : 4 * k + 4]
        opt.backward({"a": net(part).sum(), "b": net(part).square().sum()})
        whole = x[: 4 * k + 4]
        alone.zero_grad()
        alone.backward({"a": other(whole).sum(), "b": other(whole).square().sum()})
        torch.testing.assert_close(grads(net), grads(other), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("accumulate", [True, False])
def test_clipping_between_backward_and_step(accumulate):
    net, x = network(torch.float64), torch.randn(8, 6, dtype=torch.float64)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=1.0), AngleBisector(), accumulate=accumulate)
    for _ in range(3):
        opt.zero_grad()
        opt.backward({"a": net(x).sum(), "b": net(x).square().sum()})
        direction, before = grads(net), [p.detach().clone() for p in net.parameters()]
        length = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        opt.step()
        moved = [(b - p.detach()) for p, b in zip(net.parameters(), before, strict=True)]
        torch.testing.assert_close(moved, [1e-3 * d / length for d in direction], rtol=1e-3, atol=1e-15)


def test_clipping_between_micro_batches_is_an_error():
    """The next direction would replace what was clipped."""
    net, x = network(torch.float64), torch.randn(8, 6, dtype=torch.float64)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=1.0), AngleBisector())
    opt.backward({"a": net(x).sum(), "b": net(x).square().sum()})
    seen = opt.last
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    clipped = grads(net)
    with pytest.raises(RuntimeError, match="written to between two micro-batches"):
        opt.backward({"a": net(x).sum(), "b": net(x).square().sum()})
    assert opt.last is seen
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), clipped, strict=True))


# ---- parameters that come, go and share


def test_a_parameter_added_between_micro_batches():
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    opt = MultiObjectiveGradient(torch.optim.SGD([a], lr=1.0), Sum())
    opt.backward({"x": a.sum(), "y": a.square().sum()})
    opt.add_param_group({"params": [b], "lr": 0.5})
    opt.backward({"x": a.sum(), "y": (a * b).sum()})
    assert a.grad.tolist() == [1 + 2 + 1 + 3, 1 + 4 + 1 + 3]
    assert b.grad.tolist() == [3.0]


def test_a_parameter_thawed_between_micro_batches():
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0]), requires_grad=False)
    opt = MultiObjectiveGradient(torch.optim.SGD([a, b], lr=1.0), Sum())
    opt.backward({"x": (a * b).sum()})
    assert b.grad is None
    b.requires_grad_(True)
    opt.backward({"x": (a * b).sum()})
    assert (a.grad.item(), b.grad.item()) == (6.0, 1.0)


def test_a_parameter_frozen_between_micro_batches_leaves_the_others_right():
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0]))
    opt = MultiObjectiveGradient(torch.optim.SGD([b, a], lr=1.0), Sum())
    opt.backward({"x": (a * b).sum()})
    b.requires_grad_(False)
    opt.backward({"x": (a * b).sum()})
    assert a.grad.item() == 6.0
    opt.zero_grad()
    assert b.grad is None


def test_a_parameter_frozen_for_one_micro_batch_keeps_the_others():
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0]))
    opt = MultiObjectiveGradient(torch.optim.SGD([a, b], lr=1.0), Sum())
    for trainable in (True, False, True):
        b.requires_grad_(trainable)
        opt.backward({"x": (a * b).sum()})
    assert (a.grad.item(), b.grad.item()) == (9.0, 2.0)


@pytest.mark.parametrize("accumulate", [True, False])
def test_a_parameter_frozen_between_steps_is_left_alone(accumulate):
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0]))
    base = torch.optim.AdamW([a, b], lr=0.1, weight_decay=0.5)
    opt = MultiObjectiveGradient(base, Sum(), accumulate=accumulate)
    opt.backward({"x": (a * b).sum()})
    opt.step()
    b.requires_grad_(False)
    kept = b.item()
    opt.zero_grad()
    opt.backward({"x": (a * b).sum()})
    opt.step()
    assert (b.grad, b.item()) == (None, kept)
    b.requires_grad_(True)
    opt.zero_grad()
    opt.backward({"x": (a * b).sum()})
    assert b.grad.item() == a.item()


def test_a_parameter_that_only_one_micro_batch_reaches():
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0]))
    opt = MultiObjectiveGradient(torch.optim.SGD([a, b], lr=1.0), Sum())
    opt.backward({"x": (a * b).sum(), "y": a.sum()})
    opt.backward({"x": a.sum(), "y": a.sum()})
    assert (a.grad.item(), b.grad.item()) == (3 + 1 + 2, 1.0)


# ---- the strides of .grad, which fused optimizers take for granted


def _shapes(channels_last):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    net[3].weight = nn.Parameter(torch.randn(16, 5).t())  # a parameter that is itself transposed
    return net, torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("accumulate", [True, False])
def test_grad_has_the_strides_of_its_parameter(channels_last, accumulate, dtype):
    net, x = _shapes(channels_last)
    net, x = net.to(dtype), x.to(dtype)
    plain, out = copy.deepcopy(net), net(x)
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), fused=True), Sum(), accumulate=accumulate)
    penalty = sum(p.flatten().sin().sum() for p in net.parameters())  # its gradients are contiguous
    opt.backward({"penalty": penalty, "a": out[:, 0].sum(), "b": out[:, 1].square().sum()})
    for p in net.parameters():
        assert p.grad.stride() == p.stride()
    twin, base = plain(x), torch.optim.Adam(plain.parameters(), foreach=True)
    penalty = sum(p.flatten().sin().sum() for p in plain.parameters())
    (twin[:, 0].sum() + twin[:, 1].square().sum() + penalty).backward()
    rounding = 4 * torch.finfo(dtype).eps
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=rounding, atol=rounding * float(q.grad.abs().max()))
    opt.step()
    base.step()
    # Adam's first step is lr times the sign: a wrong order of memory shows as 1e-3 with the wrong sign
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rounding, atol=5e-4)


def test_the_order_of_the_names_may_differ_between_micro_batches():
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([3.0]))
    opt = MultiObjectiveGradient(torch.optim.SGD([a, b], lr=1.0), Constant({"x": 10.0, "y": 1.0}))
    opt.backward({"x": 2 * a.sum(), "y": 3 * b.sum()})
    seen = opt.backward({"y": 5 * b.sum(), "x": 7 * a.sum()})
    assert seen.names == ("x", "y")
    assert (a.grad.item(), b.grad.item()) == (90.0, 8.0)


@pytest.mark.parametrize("rule", [GradNorm(), DWA()], ids=["all gradients", "one backward"])
def test_the_order_in_which_a_function_returns_its_losses_does_not_matter(rule):
    def train(orders):
        net = nn.Linear(3, 2).double()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
        opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), rule)
        for step in orders:
            opt.zero_grad()
            for order in step:

                def losses(params, order=order):
                    y = torch.func.functional_call(net, params, (torch.ones(1, 3, dtype=torch.float64),))[0]
                    found = {"x": y[0].exp(), "y": 1 + y[1].square()}
                    return {name: found[name] for name in order}

                seen = opt.backward(losses)
                assert seen.names == ("x", "y")
            opt.step()
        return [p.detach() for p in net.parameters()], opt.state_dict()["param_groups"][0]["rule_state"]

    params, state = train([["xy", "yx"], ["yx", "xy"], ["yx", "yx"]])
    like, same = train([["xy", "xy"]] * 3)
    assert all(torch.equal(p, q) for p, q in zip(params, like, strict=True))
    assert state == same


def test_a_host_that_multiplies_by_zero_gets_zeros():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    (0 * opt.join({"a": w.sum(), "b": w.exp().sum()})).backward()
    assert w.grad.tolist() == [0, 0]


def test_losses_with_dimensions_of_size_one():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Mean())
    seen = opt.backward({"a": w.sum(), "b": w.sum(0, keepdim=True), "c": w.square().sum().view(1, 1)})
    assert seen.losses.tolist() == [2, 2, 2]
    torch.testing.assert_close(w.grad, torch.full((2,), 4 / 3))
