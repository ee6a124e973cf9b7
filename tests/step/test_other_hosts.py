"""What hosts hand over that is no dict of plain tensors, and hosts that step, freeze or clear by themselves."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import DWA, AngleBisector

from ..hosts.problem import SlowNorms, assert_same, batches, by_hand, losses, network, wrapped
from ..optimizers import train


class Labelled(Tensor):
    """A tensor that carries labels, as everything that is computed from it does."""


class ByKeys(MutableMapping[str, Tensor]):
    """A mapping that is not iterated by its keys, as that of a tensor library."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values_by_key = values

    def __iter__(self) -> Iterator[str]:
        raise TypeError("iteration over a 0-d mapping")

    def __getitem__(self, key: str) -> Tensor:
        return self.values_by_key[key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        raise NotImplementedError

    __delitem__ = __getitem__  # type: ignore[assignment]

    def __len__(self) -> int:
        raise TypeError("the first dimension is the batch, and there is none")

    def items(self) -> Any:
        return self.values_by_key.items()


@pytest.mark.parametrize("kind", ["labelled", "by keys", "tensordict"])
@pytest.mark.parametrize("way", ["backward", "join"])
def test_losses_of_another_kind(kind: str, way: str) -> None:
    net = network()
    opt = wrapped(net)
    for x, y in batches():
        opt.zero_grad()
        values = losses(net, x.as_subclass(Labelled) if kind == "labelled" else x, y)
        assert (type(values["fit"]) is Labelled) == (kind == "labelled")
        if kind == "tensordict":
            values = pytest.importorskip("tensordict").TensorDict(values, [])
        elif kind == "by keys":
            values = ByKeys(values)
        scalar = opt.join(values) if way == "join" else None
        if scalar is not None:
            assert type(scalar) is Tensor
            scalar.backward()
        else:
            opt.backward(values)
        assert {type(t) for t in (opt.last.weights, opt.last.gram, opt.last.losses)} == {Tensor}
        assert {type(p.grad) for p in net.parameters()} == {Tensor}
        opt.step()
    assert_same(net.state_dict(), by_hand())


def test_join_of_a_frozen_network_is_the_plain_sum() -> None:
    net = network()
    opt = wrapped(net)
    net.requires_grad_(False)
    values = losses(net, *batches()[0])
    assert opt.join(values) == opt.join(values) == sum(values.values())  # and none waits for its backward
    with pytest.raises(ValueError, match="needs a parameter that requires a gradient"):
        opt.backward(values)
    with pytest.raises(TypeError, match="losses must be a mapping"):
        opt.join([1.0])
    net.requires_grad_(True)
    train(net, opt, slice(1))


def test_another_optimizer_steps() -> None:
    """The host steps an optimizer of its own along what lies in ``.grad``."""
    runs = []
    for marked in (False, True):
        net = network()
        host = torch.optim.SGD(net.parameters(), lr=0.05)
        base = torch.optim.SGD(net.parameters(), lr=0.0) if marked else host
        opt = MultiObjectiveGradient(base, SlowNorms(), history=20)
        for batch in batches():
            opt.zero_grad()
            opt.backward(losses(net, *batch))
            if marked:
                host.step()
                opt.mark_step()
            else:
                opt.step()
        assert len(opt.history) == len(batches())
        runs.append(net.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_memory_that_never_advances_is_said_once() -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), DWA())
    stateless = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    for i in range(101):
        for each in (stateless, opt):
            each.backward({"a": w.sum(), "b": w.exp().sum()})
            if i == 99 and each is opt:
                with pytest.warns(UserWarning, match="call opt.mark_step"):
                    each.zero_grad()
            else:
                each.zero_grad()


def test_a_closure_that_clears_what_its_backward_has_written() -> None:
    """As automatic optimization has it, where a user calls backward and returns no loss."""
    net = network()
    opt = wrapped(net)

    def closure() -> None:
        opt.backward(losses(net, *batches()[0]))
        opt.zero_grad()

    with pytest.warns(UserWarning, match="return self.optimizers"):
        opt.step(closure)

    def twice() -> float:  # it goes on after it has cleared
        closure()
        return float(opt.backward(losses(net, *batches()[0])).losses.sum())

    opt.step(twice)
