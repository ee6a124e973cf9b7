"""The functional transforms are equal to autograd and to the optimizer."""

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad, loss_gradients
from gradweight.rules import AdaptiveWeights, AngleBisector, Mean, Sum


def problem(m=2, seed=0, width=4):
    """A network with m outputs, one loss each; the last loss reads the first parameter only."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, m)).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def losses(params, x):
        out = functional_call(net, params, (x,))
        named = {f"loss{i}": (out[:, i] - i).square().mean() for i in range(m)}
        return named | {f"loss{m - 1}": params["0.weight"].exp().sum()}

    return losses, {name: p.detach() for name, p in net.named_parameters()}, x


def by_autograd(losses, params, *args):
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    values = losses(leaves, *args)
    rows = {
        name: torch.autograd.grad(
            value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, value in values.items()
    }
    return {name: dict(zip(params, row, strict=True)) for name, row in rows.items()}, {
        name: value.detach() for name, value in values.items()
    }


def separated(losses):
    """The same losses as one function each."""
    return {name: lambda *args, name=name: losses(*args)[name] for name in ("loss0", "loss1")}


# ---- equal to autograd


@given(m=st.integers(1, 6), width=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_loss_gradients_are_autograd_s(m, width, seed):
    losses, params, x = problem(m, seed, width)
    gradients, values = loss_gradients(losses)(params, x)
    torch.testing.assert_close((gradients, values), by_autograd(losses, params, x), rtol=1e-12, atol=1e-14)


@given(
    m=st.integers(1, 6),
    rule=st.sampled_from([Sum(), Mean(), AngleBisector()]),
    seed=st.integers(0, 2**16),
)
def test_combined_grad_is_the_optimizer_s_grad(m, rule, seed):
    losses, params, x = problem(m, seed)
    direction, seen = combined_grad(losses, rule)(params, x)
    leaves = {name: nn.Parameter(p.clone()) for name, p in params.items()}
    opt = MultiObjectiveGradient(torch.optim.SGD(list(leaves.items()), lr=0.1), rule)
    expected = opt.backward(losses(leaves, x))
    for name in ("losses", "gram", "weights"):
        torch.testing.assert_close(getattr(seen, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
    assert seen.names == expected.names
    for name, p in leaves.items():
        zero = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(direction[name], zero, rtol=1e-7, atol=1e-10)


def test_separate_functions():
    losses, params, x = problem()
    torch.testing.assert_close(loss_gradients(separated(losses))(params, x), loss_gradients(losses)(params, x))
    one, several = (combined_grad(f, AngleBisector())(params, x) for f in (losses, separated(losses)))
    torch.testing.assert_close(one[0], several[0])
    assert one[1].as_dict() == pytest.approx(several[1].as_dict())


def test_keywords_and_other_arguments_reach_the_losses():
    def losses(params, x, *, power):
        return {"a": (params["w"] * x).sum() ** power}

    gradients, values = loss_gradients(losses)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]), power=2)
    assert values["a"].item() == 121.0
    assert gradients["a"]["w"].tolist() == [66.0, 88.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex128])
def test_other_dtypes(dtype):
    w = torch.arange(1, 5).to(dtype)

    def losses(params):
        return {"a": 3 * params["w"].abs().float().square().sum(), "b": params["w"].real.float().sum()}

    direction, seen = combined_grad(losses, AngleBisector())({"w": w})
    n = torch.arange(1, 5).double()
    lengths = [6 * float(n.norm()), 2.0]
    assert seen.norms.tolist() == pytest.approx(lengths, rel=1e-6)
    expected = 6 * n / lengths[0] + 1 / lengths[1]
    assert direction["w"].dtype == dtype
    torch.testing.assert_close(direction["w"].to(torch.complex128).real, expected, rtol=2**-8, atol=0)


def test_a_non_finite_gradient_makes_the_whole_direction_nan():
    def losses(params):
        return {"a": params["v"].sum(), "b": params["w"].sqrt().sum()}

    for rule in (Sum(), MajoritySign()):
        direction, seen = combined_grad(losses, rule)({"v": torch.ones(2), "w": torch.zeros(2)})
        assert direction["v"].isnan().all()
        assert direction["w"].isnan().all()
        assert not torch.isfinite(seen.norms[1])


# ---- what rules need


def test_signals_come_from_the_losses_function():
    def losses(params, real, fake):
        r, f = real @ params["w"], fake @ params["w"]
        named = {"real": nn.functional.softplus(-r).mean(), "fake": nn.functional.softplus(f).mean()}
        return named, {"real_score": r.sigmoid().mean(), "fake_score": f.sigmoid().mean()}

    w, real, fake = torch.randn(3), torch.randn(8, 3), torch.randn(8, 3) + 2
    direction, seen = combined_grad(losses, AdaptiveWeights(), has_signals=True)({"w": w}, real, fake)
    p = nn.Parameter(w.clone())
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), AdaptiveWeights())
    named, signals = losses({"w": p}, real, fake)
    expected = opt.backward(named, **signals)
    torch.testing.assert_close(seen.weights, expected.weights)
    torch.testing.assert_close(direction["w"], p.grad)


@dataclass(frozen=True)
class RunningNorms:
    """A stateful rule: 1 over a running mean of the norms."""

    def init(self, gram, /):
        return {"mean": torch.zeros_like(gram.diagonal())}

    def update(self, gram, state, /):
        mean = 0.7 * state["mean"] + 0.3 * gram.diagonal().sqrt()
        return 1 / mean, {"mean": mean}


@dataclass(frozen=True)
class MajoritySign:
    """A coordinate rule: in each place the sum of the gradients that have the sign of their sum."""

    def combine(self, rows, /, *, names):
        assert len(names) == len(rows)
        return (rows * (rows.sign() == rows.sum(0).sign())).sum(0)


@pytest.mark.parametrize("rule", [RunningNorms(), MajoritySign(), AngleBisector()], ids=lambda r: type(r).__name__)
def test_a_run_by_hand_is_the_optimizer_s_run(rule):
    """Plain gradient descent with the state passed from step to step."""
    losses, params, x = problem(3)
    direction_of = combined_grad(losses, rule)
    leaves = {name: nn.Parameter(p.clone()) for name, p in params.items()}
    opt = MultiObjectiveGradient(torch.optim.SGD(list(leaves.items()), lr=0.05), rule)
    state = None
    for _ in range(4):
        if isinstance(rule, RunningNorms):
            before = copy.deepcopy(state)
            direction, seen, new_state = direction_of(params, x, rule_state=state)
            assert str(state) == str(before)  # passed and returned, never changed
            state = new_state
        else:
            direction, seen = direction_of(params, x)
        params = {name: p - 0.05 * direction[name] for name, p in params.items()}
        opt.zero_grad()
        expected = opt.backward(lambda p: losses(p, x))
        opt.step()
        torch.testing.assert_close(seen.weights, expected.weights, equal_nan=True)
    torch.testing.assert_close(params, {name: p.detach() for name, p in leaves.items()})


def test_the_number_of_steps_is_the_caller_s_to_pass():
    """Nothing is stored here, so nobody counts: `step` is a signal like any other."""

    def losses(params, step):
        return {"a": params["w"].sum()}, {"step": step}

    def rule(gram, /, *, step):
        return gram[0] * 0 + step

    direction, _ = combined_grad(losses, rule, has_signals=True)({"w": torch.ones(2)}, torch.tensor(3))
    assert direction["w"].tolist() == [3.0, 3.0]
    with pytest.raises(TypeError, match="needs the signal 'step'"):
        combined_grad(lambda p: losses(p, 0)[0], rule)({"w": torch.ones(2)})


def test_errors():
    losses, params, x = problem()
    with pytest.raises(ValueError, match="at least one loss"):
        loss_gradients(lambda p: {})(params)
    with pytest.raises(ValueError, match=r"'a' must be a scalar; got shape \(4, 3\)"):
        loss_gradients(lambda p: {"a": p["0.weight"]})(params)
    with pytest.raises(TypeError, match="mapping name -> scalar tensor; got Tensor"):
        loss_gradients(lambda p: p["0.weight"].sum())(params)
    with pytest.raises(TypeError, match="'b' is int"):
        loss_gradients({"a": lambda p: p["0.weight"].sum(), "b": 1})(params)
    with pytest.raises(ValueError, match=r"one function that returns .* got a mapping of functions"):
        combined_grad(separated(losses), AdaptiveWeights(), has_signals=True)
    with pytest.raises(TypeError, match=r"AdaptiveWeights needs the signal .*the losses function was given no signals"):
        combined_grad(losses, AdaptiveWeights())(params, x)
    with pytest.raises(TypeError, match=r"must be an instance; got the class Sum"):
        combined_grad(losses, Sum)
    with pytest.raises(ValueError, match=r"one weight per loss, shape \(2,\); got shape \(2, 2\)"):
        combined_grad(losses, lambda gram: gram)(params, x)
