"""What others leave in ``.grad`` is kept and added to, as in torch; where that cannot be, it is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import NormBalance, Sum

HOW: dict[str, Callable[[MultiObjectiveGradient, Tensor], object]] = {
    "backward": lambda opt, w: opt.backward({"a": 2 * w}),
    "join": lambda opt, w: opt.join({"a": 2 * w}).backward(),
    "functions": lambda opt, w: opt.backward({"a": lambda p: 2 * p["w"]}),
}


def wrapped(*params: Tensor, base: type[torch.optim.Optimizer] = torch.optim.SGD, **options: object):
    named = [(f"w{i}" if i else "w", p) for i, p in enumerate(params)]
    return MultiObjectiveGradient(base(params, lr=0.1), Sum(), params=named, **options)


def scalar() -> nn.Parameter:
    return nn.Parameter(torch.ones(()))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("engine", ["auto", "hooks"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_a_loss_that_was_walked_back_by_itself(how: str, engine: str, accumulate: bool) -> None:
    w = scalar()
    opt = wrapped(w, engine=engine, accumulate=accumulate)
    for _ in range(3):
        opt.zero_grad()
        (5 * w).backward()
        HOW[how](opt, w)
        assert w.grad.item() == 7
        (4 * w).backward()
        assert w.grad.item() == 11
        opt.step()
    assert w.item() == pytest.approx(1 - 3 * 1.1)


def test_it_is_added_once_over_all_micro_batches() -> None:
    w = scalar()
    opt = wrapped(w)
    (5 * w).backward()
    for i in range(1, 4):
        opt.backward({"a": 2 * w})
        assert w.grad.item() == 5 + 2 * i


@pytest.mark.parametrize("how", HOW)
def test_between_micro_batches_it_is_an_error(how: str) -> None:
    w = scalar()
    opt = wrapped(w)
    HOW[how](opt, w)
    (5 * w).backward()
    with pytest.raises(RuntimeError, match=r"between two micro-batches.*put every loss into the mapping"):
        HOW[how](opt, w)
    assert w.grad.item() == 7
    opt.step()
    assert w.item() == pytest.approx(0.3)


@pytest.mark.parametrize("order", ["join first", "penalty first"])
def test_a_term_that_is_added_to_the_joined_scalar(order: str) -> None:
    w = scalar()
    opt = wrapped(w)
    joined = opt.join({"a": 2 * w})
    (joined + 5 * w if order == "join first" else 5 * w + joined).backward()
    assert w.grad.item() == 7


def test_what_no_loss_reaches_keeps_its_gradient() -> None:
    a, b = scalar(), scalar()
    opt = wrapped(a, b)
    (3 * b).backward()
    for _ in range(2):
        opt.backward({"x": a * 2})
    assert (a.grad.item(), b.grad.item()) == (4, 3)
    opt.backward({"x": a * 2 + b})  # and then one does
    assert (a.grad.item(), b.grad.item()) == (6, 4)


def clear(w: Tensor) -> None:
    w.grad.data.zero_()


def clear_version(w: Tensor) -> None:
    w.grad.zero_()


class ZeroingSGD(torch.optim.SGD):
    """Clears the gradients in place at the end of its step."""

    @torch.no_grad()
    def step(self, closure=None):
        result = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.zero_()
        return result


@pytest.mark.parametrize("how", ["data", "in place", "base"])
def test_gradients_that_are_cleared_after_the_step_begin_anew(how: str) -> None:
    w = scalar()
    opt = wrapped(w, base=ZeroingSGD if how == "base" else torch.optim.SGD)
    for _ in range(3):
        opt.backward({"a": 2 * w})
        assert w.grad.item() == 2
        opt.step()
        if how != "base":
            {"data": clear, "in place": clear_version}[how](w)


@pytest.mark.parametrize("whose", ["optimizer", "model"])
def test_zeros_stay_where_no_loss_reaches(whose: str) -> None:
    """With zeros for a gradient, momentum goes on and weights decay."""
    found = []
    for wrap in (True, False):
        net = nn.ParameterDict({"a": scalar(), "b": scalar()})
        base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
        opt = MultiObjectiveGradient(base, Sum()) if wrap else base
        for step in range(4):
            (opt if whose == "optimizer" else net).zero_grad(set_to_none=False)
            losses = {"x": net["a"] ** 2} | ({"y": 3 * net["b"]} if step == 0 else {})
            opt.backward(losses) if wrap else sum(losses.values()).backward()
            opt.step()
        found.append([p.item() for p in net.parameters()])
    assert found[0] == found[1]


class Failing:
    """Fails once it is told to, after the direction of the first parameter."""

    fail = False

    def combine(self, rows: Tensor, /) -> Tensor:
        if self.fail and rows.shape[1:] == (2,):
            raise MemoryError
        return rows.sum(0)


@pytest.mark.parametrize("rule", ["coordinates", "weights"])
def test_a_combination_that_fails_leaves_the_direction_before(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    failing = Failing()
    opt = MultiObjectiveGradient(torch.optim.SGD([a, b], lr=0.1), failing if rule == "coordinates" else Sum())

    def micro_batch() -> None:
        opt.backward({"x": a.square().sum() + b.sum(), "y": b.exp().sum()})

    micro_batch()
    before = [(p.grad, p.grad.clone()) for p in (a, b)]
    with monkeypatch.context() as patch:
        failing.fail = True
        if rule == "weights":  # after the direction has been written

            def fail(*_: object) -> None:
                raise MemoryError

            patch.setattr(type(opt._step.communicator(opt._step.params())), "all_gather_direction", fail)
        with pytest.raises(MemoryError):
            micro_batch()
    for p, (tensor, value) in zip((a, b), before, strict=True):
        assert p.grad is tensor
        assert torch.equal(tensor, value)
    failing.fail = False
    micro_batch()
    for p, (_, value) in zip((a, b), before, strict=True):
        torch.testing.assert_close(p.grad, 2 * value)


def test_retain_graph_reaches_the_losses_of_a_join() -> None:
    w = scalar()
    opt = wrapped(w)
    loss = w.exp()
    for _ in range(2):
        opt.zero_grad()
        opt.join({"a": loss}).backward(retain_graph=True)
    opt.zero_grad()
    opt.join({"a": loss}).backward()
    torch.testing.assert_close(w.grad, w.detach().exp())
    with pytest.raises(RuntimeError, match="second time"):
        opt.join({"a": loss}).backward()


def test_a_parameter_that_is_listed_twice_counts_once() -> None:
    v, w = scalar(), scalar()
    with pytest.warns(UserWarning, match="duplicate"):
        base = torch.optim.SGD([w, v, w], lr=0.1)
    opt = MultiObjectiveGradient(base, NormBalance(beta=0.0))
    seen = opt.backward({"a": 3 * w + 4 * v, "b": 5 * v})
    assert seen.gram.tolist() == [[25, 20], [20, 25]]
    alone = MultiObjectiveGradient(torch.optim.SGD([w, v], lr=0.1), NormBalance(beta=0.0))
    assert torch.equal(seen.weights, alone.backward({"a": 3 * w + 4 * v, "b": 5 * v}).weights)


class Interrupted(nn.Parameter):
    """A parameter that the user interrupts the program at, while its ``.grad`` is being written."""

    now = False

    @property
    def grad(self) -> Any:
        return Tensor.grad.__get__(self)  # type: ignore[attr-defined]

    @grad.setter
    def grad(self, value: Any) -> None:
        if type(self).now:
            type(self).now = False
            raise KeyboardInterrupt
        Tensor.grad.__set__(self, value)  # type: ignore[attr-defined]


def test_an_interrupt_while_the_direction_is_written() -> None:
    v, w = scalar(), Interrupted(torch.ones(()))
    opt = wrapped(v, w)
    opt.backward({"a": 2 * v + 3 * w})
    before = v.grad, w.grad
    Interrupted.now = True
    with pytest.raises(KeyboardInterrupt):
        opt.backward({"a": v * w})
    assert (v.grad, w.grad) == before == (2, 3)
    assert v.grad is before[0]
    opt.backward({"a": v * w})
    assert (v.grad, w.grad) == (3, 4)  # added to the first micro-batch alone
