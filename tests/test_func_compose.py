"""The functional transforms compose: an ensemble under vmap, one graph under compile, and their own derivatives."""

import pytest
import torch

from gradweight.func import combined_grad, loss_gradients
from gradweight.rules import AngleBisector, Mean, OrthogonalProjection, Sum

from .test_func import MajoritySign, RunningNorms, by_autograd, problem, separated

# ---- vmap


def ensemble(params, members=3, dim=0):
    return {
        name: torch.stack([p + 0.1 * k * torch.randn_like(p) for k in range(members)], dim)
        for name, p in params.items()
    }


def member(params, k, dim=0):
    return {name: p.select(dim, k) for name, p in params.items()}


@pytest.mark.parametrize("rule", [Sum(), AngleBisector(), MajoritySign()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("m", [2, 4])
def test_an_ensemble_is_a_loop_over_its_members(rule, dim, m):
    """Each with a Gram matrix and weights of its own, whichever dimension the members lie along."""
    losses, params, x = problem(m)
    stacked = ensemble(params, dim=dim)
    direction_of = combined_grad(losses, rule)
    direction, seen = torch.vmap(direction_of, in_dims=(dim, None))(stacked, x)
    for k in range(3):
        expected, alone = direction_of(member(stacked, k, dim), x)
        torch.testing.assert_close(member(direction, k), expected, rtol=1e-9, atol=1e-11)
        for name in ("losses", "gram", "weights"):
            found = getattr(seen, name)[k]
            torch.testing.assert_close(found, getattr(alone, name), rtol=1e-9, atol=1e-11, equal_nan=True)
    assert seen.cosines.shape == (3, m, m)
    assert "3" in str(seen)


def test_an_ensemble_over_its_data():
    losses, params, _ = problem()
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    gradients, values = torch.vmap(loss_gradients(losses), in_dims=(None, 0))(params, x)
    for k in range(4):
        expected = by_autograd(losses, params, x[k])
        found = {name: member(g, k) for name, g in gradients.items()}, {name: v[k] for name, v in values.items()}
        torch.testing.assert_close(found, expected)


def test_an_ensemble_with_state():
    losses, params, x = problem()
    stacked, direction_of = ensemble(params), combined_grad(losses, RunningNorms())
    _, _, state = torch.vmap(direction_of, in_dims=(0, None))(stacked, x)
    direction, _, _ = torch.vmap(lambda p, s: direction_of(p, x, rule_state=s))(stacked, state)
    for k in range(3):
        _, _, alone = direction_of(member(stacked, k), x)
        expected, _, _ = direction_of(member(stacked, k), x, rule_state=alone)
        torch.testing.assert_close(member(direction, k), expected)


def test_one_member_that_is_not_finite_leaves_the_others_alone():
    def losses(params):
        return {"a": params["w"].sqrt().sum(), "b": params["w"].sum()}

    direction, _ = torch.vmap(combined_grad(losses, Sum()))({"w": torch.tensor([[1.0, 4.0], [0.0, 1.0]])})
    torch.testing.assert_close(direction["w"], torch.tensor([[1.5, 1.25], [torch.nan, torch.nan]]), equal_nan=True)


# ---- compile

COMPILED_RULES = [
    Sum(),
    Mean(),
    AngleBisector(),
    OrthogonalProjection(favour="loss0", protect="loss1"),
    RunningNorms(),
    MajoritySign(),
]


@pytest.mark.parametrize("rule", COMPILED_RULES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(
    "split", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one function", "functions"]
)
def test_compiled_in_one_graph(rule, split):
    losses, params, x = problem()
    direction_of = combined_grad(separated(losses) if split else losses, rule)
    torch._dynamo.reset()
    compiled = torch.compile(direction_of, fullgraph=True, backend="aot_eager")
    found, expected = compiled(params, x), direction_of(params, x)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    for name in ("losses", "gram", "weights"):
        torch.testing.assert_close(getattr(found[1], name), getattr(expected[1], name), equal_nan=True)
    assert found[1].names == expected[1].names


def test_compiled_ensemble():
    losses, params, x = problem()
    stacked = ensemble(params)
    direction_of = torch.vmap(combined_grad(losses, AngleBisector()), in_dims=(0, None))
    torch._dynamo.reset()
    found, seen = torch.compile(direction_of, fullgraph=True, backend="aot_eager")(stacked, x)
    expected, plain = direction_of(stacked, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(seen.weights, plain.weights)


@pytest.mark.slow
def test_compiled_by_the_default_backend():
    def losses(params):
        return {"a": params["w"].square().sum(), "b": params["w"].exp().sum()}

    torch._dynamo.reset()
    gradients, _ = torch.compile(loss_gradients(losses), fullgraph=True)({"w": torch.tensor([1.0, 2.0])})
    torch.testing.assert_close(gradients["a"]["w"], torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(gradients["b"]["w"], torch.tensor([1.0, 2.0]).exp())


# ---- derivatives of the transforms


def differences(f, params, h=1e-6):
    """Central differences of a scalar function of a dict, float64."""
    result = {}
    for name, p in params.items():
        gradient = torch.zeros_like(p)
        for index in range(p.numel()):
            step = torch.zeros_like(p).flatten()
            step[index] = h
            step = step.view_as(p)
            up, down = f(params | {name: p + step}), f(params | {name: p - step})
            gradient.view(-1)[index] = (up - down) / (2 * h)
        result[name] = gradient
    return result


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("rule", [Sum(), AngleBisector()], ids=lambda r: type(r).__name__)
def test_second_derivatives(rule, m):
    """Through gradients, Gram matrix and weights: the slope of |direction|^2 against differences, error h^2."""
    losses, params, x = problem(m, width=2)
    direction_of = combined_grad(losses, rule)

    def length(p):
        direction, seen = direction_of(p, x)
        return sum(d.square().sum() for d in direction.values()) + seen.weights.sum()

    torch.testing.assert_close(torch.func.grad(length)(params), differences(length, params), rtol=1e-5, atol=1e-6)


def test_second_derivatives_of_loss_gradients():
    losses, params, x = problem(2, width=2)

    def penalty(p):
        gradients, values = loss_gradients(losses)(p, x)
        return sum(g.square().sum() for row in gradients.values() for g in row.values()) * values["loss0"]

    torch.testing.assert_close(torch.func.grad(penalty)(params), differences(penalty, params), rtol=1e-6, atol=1e-7)


def test_second_derivatives_of_an_ensemble_and_by_backward():
    losses, params, x = problem(2, width=2)
    stacked = ensemble(params)

    def length(p):
        return sum(d.square().sum() for d in combined_grad(losses, AngleBisector())(p, x)[0].values())

    found = torch.vmap(torch.func.grad(length))(stacked)
    for k in range(3):
        leaves = {name: p.clone().requires_grad_() for name, p in member(stacked, k).items()}
        length(leaves).backward()
        torch.testing.assert_close({name: p.grad for name, p in leaves.items()}, member(found, k))
