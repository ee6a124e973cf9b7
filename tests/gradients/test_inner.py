"""Functions whose backward walks a graph of its own: their inner parameters get their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.gradients.engines import loss_gradients
from gradweight.rules import Sum


class Checkpoint(torch.autograd.Function):
    """An activation checkpoint as libraries write their own."""

    @staticmethod
    def forward(ctx: Any, block: nn.Module, x: Tensor) -> Tensor:
        ctx.block, ctx.x = block, x.detach()
        with torch.no_grad():
            return block(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.block(x)
        torch.autograd.backward(y, cotangents[0])
        return None, x.grad


class Double(torch.autograd.Function):
    """Walks no graph: all is as without it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return 2 * cotangents[0]


def rows(losses: dict[str, Tensor], params: list[Tensor], engine: str) -> list[Any]:
    return list(loss_gradients(losses, params, names=None, engine=engine).rows)


@pytest.mark.parametrize("engine", ["auto", "autograd", "hooks"])
@pytest.mark.parametrize("lora", [False, True], ids=["all", "inner only"])
@pytest.mark.parametrize("twice", [False, True], ids=["inside", "inside and outside"])
def test_inner_parameters(engine: str, lora: bool, twice: bool) -> None:
    a, b = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    params = [*b.parameters()] if lora else [*a.parameters(), *b.parameters()]
    x = torch.randn(5, 3, dtype=torch.float64)
    b.weight.grad = before = torch.full((3, 3), 7.0, dtype=torch.float64)

    def losses(checkpointed: bool) -> dict[str, Tensor]:
        y = a(x)
        y = Checkpoint.apply(b, y) if checkpointed else b(y)
        y = b(y) if twice else y
        return {"a": y[:, 0].square().mean(), "b": y[:, 1:].exp().mean(), "c": 3 * y.mean()}

    expected = [torch.autograd.grad(loss, params, retain_graph=True) for loss in losses(False).values()]
    found = rows(losses(True), params, engine)
    for row, right in zip(found, expected, strict=True):
        torch.testing.assert_close(row, list(right), rtol=1e-12, atol=1e-14)
    assert b.weight.grad is before
    assert (before == 7).all()


def test_where_the_input_is_a_leaf_that_is_no_parameter() -> None:
    """As with ``enable_input_require_grads``, where the adapters inside are all that trains."""
    b, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    found = rows({"a": Checkpoint.apply(b, x).sum()}, [*b.parameters()], "auto")
    torch.testing.assert_close(found, [[torch.ones(2, 2), torch.ones(2)]])


def test_a_loss_that_reaches_nothing_is_still_refused() -> None:
    w, x = nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="'a' reaches none of the parameters"):
        rows({"a": Double.apply(x).sum()}, [w], "auto")


class OneWay(torch.autograd.Function):
    """As a layer whose parameters are gathered for the one backward pass that is to come."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        raise AssertionError("nobody asked for what lies behind")


@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_what_lies_behind_a_tensor_is_not_walked_for_its_gradient(engine: str) -> None:
    features = OneWay.apply(nn.Parameter(torch.ones(2)))
    found = rows({"a": Double.apply(features).sum(), "b": features.square().sum()}, [features], engine)
    torch.testing.assert_close(found, [[torch.full((2,), 2.0)], [torch.full((2,), 4.0)]])


def test_one_backward_of_the_weighted_sum() -> None:
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    opt = MultiObjectiveGradient(torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1), Sum())
    opt.backward({"l": Checkpoint.apply(b, a(torch.ones(1, 1))).sum()})
    torch.testing.assert_close(b.weight.grad, a(torch.ones(1, 1)).detach())


class OneShot(torch.autograd.Function):
    """A checkpoint that deletes what it has saved in its first backward pass."""

    @staticmethod
    def forward(ctx: Any, block: nn.Module, x: Tensor, *params: Tensor) -> Tensor:
        ctx.block, ctx.inputs = block, [x, *params]
        with torch.no_grad():
            return block(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        with torch.enable_grad():
            y = ctx.block(ctx.inputs[0])
        found = torch.autograd.grad(y, ctx.inputs, cotangents)
        del ctx.inputs
        return None, *found


@pytest.mark.parametrize("engine", ["auto", "autograd", "hooks"])
def test_a_checkpoint_that_works_for_one_backward_pass_only(engine: str) -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 2)
    opt = MultiObjectiveGradient(torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1), Sum(), engine=engine)
    y = OneShot.apply(b, a(torch.ones(1, 3)), *b.parameters())
    with pytest.raises(RuntimeError, match=r"deletes its inputs, use .*use_reentrant=False.*was: AttributeError"):
        opt.backward({"a": y[:, 0].mean(), "b": y[:, 1].mean()})
    assert a.weight.grad is None
    opt.backward({"a": OneShot.apply(b, a(torch.ones(1, 3)), *b.parameters()).mean()})  # of one loss it is all right
    assert a.weight.grad is not None


def test_an_error_of_the_first_backward_pass_is_its_own() -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 2)
    y = OneShot.apply(b, a(torch.ones(1, 3)), *b.parameters())
    y.mean().backward(retain_graph=True)
    with pytest.raises(AttributeError):
        rows({"a": y.mean(), "b": y.sum()}, [*a.parameters()], "auto")
