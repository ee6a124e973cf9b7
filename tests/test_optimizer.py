"""The wrapper is the base optimizer wherever the gradients do not come into it."""

import copy
import gc
import itertools
import weakref
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Sum

BASES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def network():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 1)
    )


def twins(make, rule=None, **options):
    """A wrapped and a bare optimizer on equal networks."""
    net = network()
    other = copy.deepcopy(net)
    return (net, MultiObjectiveGradient(make(net.parameters()), rule or Sum(), **options)), (
        other,
        make(other.parameters()),
    )


def batch():
    return torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4) + 1


def losses(net, real, fake):
    return {"real": nn.functional.softplus(-net(real)).mean(), "fake": nn.functional.softplus(net(fake)).mean()}


def both_step(ours, theirs, data=batch):
    """A step of the wrapper along the sum of two losses, and the base's own."""
    (net, opt), (other, base) = ours, theirs
    real, fake = data()
    opt.zero_grad()
    base.zero_grad()
    opt.backward(losses(net, real, fake))
    sum(losses(other, real, fake).values()).backward()
    opt.step()
    base.step()


def assert_equal(net, other):
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
@pytest.mark.parametrize(
    "options", [{}, {"accumulate": False}, {"engine": "hooks"}], ids=["default", "in place", "hooks"]
)
def test_sum_takes_the_steps_of_the_plain_optimizer(make, options):
    """Bit for bit: two losses on separate batches are two summands, in whatever order."""
    ours, theirs = twins(make, **options)
    for _ in range(5):
        both_step(ours, theirs)
        assert_equal(ours[0], theirs[0])


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{"capturable": True}, {"fused": True}, {"foreach": True}], ids=str)
def test_sum_takes_the_steps_of_the_plain_optimizer_on_cuda(options):
    """capturable exists on accelerators only; on them atomics may sum in another order than the last time.

    In double precision, where that is 1e-16 of a gradient, of which Adam can make 1e-6 of a step.
    """
    net = network().cuda().double()
    other = copy.deepcopy(net)
    opt = MultiObjectiveGradient(torch.optim.AdamW(net.parameters(), lr=0.01, **options), Sum())
    base = torch.optim.AdamW(other.parameters(), lr=0.01, **options)
    for _ in range(5):
        both_step((net, opt), (other, base), lambda: [x.cuda().double() for x in batch()])
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    batch_size=st.integers(1, 5),
    m=st.integers(1, 4),
    make=st.sampled_from(list(BASES.values())[:4]),
    seed=st.integers(0, 2**16),
)
def test_sum_takes_the_steps_of_the_plain_optimizer_on_any_network(widths, batch_size, m, make, seed):
    """m losses of one forward: summed in another order than autograd's, hence equal up to rounding."""
    torch.manual_seed(seed)
    sizes = [3, *widths, m]
    layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.Tanh(), nn.Softplus())]
    net = nn.Sequential(*layers).double()
    other = copy.deepcopy(net)
    opt, base = MultiObjectiveGradient(make(net.parameters()), Sum()), make(other.parameters())
    for _ in range(3):
        x = torch.randn(batch_size, 3, dtype=torch.float64)
        opt.zero_grad()
        base.zero_grad()
        opt.backward({str(i): loss for i, loss in enumerate(net(x).mean(0))})
        other(x).mean(0).sum().backward()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-11, atol=1e-14)
        opt.step()
        base.step()


# ---- delegation


def test_groups_state_and_defaults_are_the_base_s_own():
    (net, opt), _ = twins(BASES["Adam"])
    assert isinstance(opt, torch.optim.Optimizer)
    for _ in range(2):
        assert opt.param_groups is opt.base.param_groups
        assert opt.state is opt.base.state
        assert opt.defaults is opt.base.defaults
        opt.backward(losses(net, *batch()))
        opt.step()
        opt.load_state_dict(opt.state_dict())
    assert len(opt.state) == len(list(net.parameters()))
    assert repr(opt).startswith("MultiObjectiveGradient(Adam (")


def test_a_step_with_nothing_pending_is_the_base_s():
    (net, opt), (other, base) = twins(BASES["SGD"])
    real, fake = batch()
    for net_, optimizer in ((net, opt), (other, base)):
        optimizer.step()
        sum(losses(net_, real, fake).values()).backward()
        with pytest.warns(UserWarning, match="never called") if optimizer is opt else nullcontext():
            optimizer.step()
        optimizer.zero_grad()
        optimizer.step()
    assert_equal(net, other)
    assert opt.last is None


def test_step_with_a_closure():
    (net, opt), (other, base) = twins(BASES["Adam"])
    for _ in range(3):
        real, fake = batch()

        def wrapped(real=real, fake=fake):
            opt.zero_grad()
            values = losses(net, real, fake)
            opt.backward(values)
            return sum(values.values())

        def plain(real=real, fake=fake):
            base.zero_grad()
            loss = sum(losses(other, real, fake).values())
            loss.backward()
            return loss

        assert torch.equal(opt.step(wrapped), base.step(plain))
        assert_equal(net, other)


def test_add_param_group():
    (net, opt), (other, base) = twins(BASES["SGD"])
    extra, extra_other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    opt.add_param_group({"params": [extra], "lr": 0.5})
    base.add_param_group({"params": [extra_other], "lr": 0.5})
    assert opt.base.param_groups[1]["lr"] == 0.5
    real, fake = batch()
    found = losses(net, real, fake)
    opt.backward(found | {"real": found["real"] * extra.sum()})
    expected = losses(other, real, fake)
    (expected["real"] * extra_other.sum() + expected["fake"]).backward()
    opt.step()
    base.step()
    assert_equal(net, other)
    assert torch.equal(extra, extra_other)


def test_a_named_group_added_later_reaches_functions():
    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    opt = MultiObjectiveGradient(torch.optim.SGD([(f"a.{n}", p) for n, p in a.named_parameters()], lr=0.1), Sum())
    opt.add_param_group({"params": [(f"b.{n}", p) for n, p in b.named_parameters()]})
    opt.backward(lambda p: {"x": p["a.weight"].sum(), "y": (p["a.bias"] * p["b.bias"]).sum()})
    assert torch.equal(b.bias.grad, a.bias)
    assert b.weight.grad is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    (net, opt), _ = twins(BASES["SGD"])
    opt.backward(losses(net, *batch()))
    opt.zero_grad(set_to_none=set_to_none)
    for p in net.parameters():
        assert p.grad is None if set_to_none else not p.grad.any()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("clip", [False, True])
def test_model_zero_grad_is_noticed(set_to_none, accumulate, clip):
    (net, opt), (other, base) = twins(BASES["Adam"], accumulate=accumulate)
    for _ in range(4):
        real, fake = batch()
        net.zero_grad(set_to_none=set_to_none)
        other.zero_grad()
        opt.backward(losses(net, real, fake))
        sum(losses(other, real, fake).values()).backward()
        if clip:
            for network_ in (net, other):
                nn.utils.clip_grad_value_(network_.parameters(), 0.1)
        opt.step()
        base.step()
        assert_equal(net, other)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_model_zero_grad_is_noticed_after_a_step_that_the_scaler_skipped(set_to_none):
    (net, opt), _ = twins(BASES["SGD"])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    for step in range(3):
        net.zero_grad(set_to_none=set_to_none)
        found = losses(net, *batch())
        opt.backward(found | ({"real": found["real"] * torch.inf} if step == 0 else {}), scaler=scaler)
        scaler.step(opt)
        scaler.update()
    assert scaler.get_scale() == 2.0**3


def test_gradients_that_others_replaced_are_neither_added_to_nor_forgotten():
    (net, opt), _ = twins(BASES["SGD"])
    opt.backward(losses(net, *batch()))
    theirs = [p.grad.clone() for p in net.parameters()]
    for p, grad in zip(net.parameters(), theirs, strict=True):
        p.grad = grad
    with pytest.raises(RuntimeError, match=r"other tensors lie in \.grad"):
        opt.backward(losses(net, *batch()))
    assert all(p.grad is grad for p, grad in zip(net.parameters(), theirs, strict=True))
    with pytest.warns(UserWarning, match=r"other tensors in \.grad"):
        opt.step()  # they are what the base steps along
    opt.zero_grad()
    opt.backward(losses(net, *batch()))


def test_zeros_in_new_tensors_are_a_zero_grad():
    (net, opt), (other, fresh) = twins(BASES["SGD"], accumulate=True)
    opt.backward(losses(net, *batch()))
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    real, fake = batch()
    opt.backward(losses(net, real, fake))
    sum(losses(other, real, fake).values()).backward()
    opt.step()
    fresh.step()
    assert_equal(net, other)


def test_without_zero_grad_gradients_go_on_adding_up():
    (net, opt), (other, base) = twins(BASES["SGD"])
    for _ in range(3):
        real, fake = batch()
        opt.backward(losses(net, real, fake))
        sum(losses(other, real, fake).values()).backward()
        opt.step()
        base.step()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_wrapper_that_goes_takes_its_rows_along():
    w = nn.Parameter(torch.ones(3))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    opt.backward({"a": w.sum(), "b": w.exp().sum()})
    gone = weakref.ref(opt)
    del opt
    gc.collect()
    assert gone() is None
