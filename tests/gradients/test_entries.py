"""Losses out of a stack: the same gradients as those of the terms, and only their own graphs are walked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.gradients.engines import loss_gradients
from gradweight.gradients.entries import Entry, starts_of
from gradweight.rules import AngleBisector


class Walked(torch.autograd.Function):
    """The identity, which counts how often it is walked back through."""

    @staticmethod
    def forward(ctx, x: Tensor, count: list[int]) -> Tensor:
        ctx.count = count
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        ctx.count[0] += 1
        return cotangent, None


def terms_of(net: nn.Module, m: int, trunk: bool, counts: list[list[int]]) -> list[Tensor]:
    x = torch.arange(3.0 * m, dtype=torch.float64).reshape(m, 3).sin()
    shared = net(x) if trunk else None
    outputs = [shared[i] if trunk else net(x[i]) for i in range(m)]
    return [Walked.apply((i + 1) * output.square().sum(), counts[i]) for i, output in enumerate(outputs)]


WEIGHTS = torch.tensor([2.0, 0.5, -1.0, 3.0], dtype=torch.float64)

TAKEN: dict[str, Callable[[list[Tensor]], Sequence[Tensor]]] = {
    "entries": lambda terms: [torch.stack(terms)[i] for i in range(len(terms))],
    "entries of one stack": lambda terms: (lambda s: [s[i] for i in range(len(terms))])(torch.stack(terms)),
    "from the end": lambda terms: [torch.stack(terms)[i - len(terms)] for i in range(len(terms))],
    "unbind": lambda terms: torch.stack(terms).unbind(),
    "a loop": lambda terms: list(torch.stack(terms, dim=-1)),
    "times weights": lambda terms: list(torch.stack(terms) * WEIGHTS[: len(terms)]),
    "times weights in place": lambda terms: list(torch.stack(terms).mul_(WEIGHTS[: len(terms)])),
    "over weights, a half each": lambda terms: [0.5 * t for t in torch.stack(terms) / WEIGHTS[: len(terms)]],
    "another precision": lambda terms: [t.double() for t in torch.stack(terms).float()],
}

# what is no entry of a stack of 0-dim terms as far as its graph shows, so that it is walked as it is
OTHERS: dict[str, Callable[[list[Tensor]], Sequence[Tensor]]] = {
    "rows": lambda terms: [row.sum() for row in torch.stack([torch.stack([t, t]) for t in terms])],
    "more dimensions": lambda terms: (torch.stack(terms) * torch.ones_like(terms[0])[None, None])[0].unbind(),
    "a sum of two": lambda terms: [s + t for s, t in zip(torch.stack(terms), torch.stack(terms).flip(0), strict=True)],
    "its own stack": lambda terms: [torch.stack([t])[0] for t in terms],
    "means": lambda terms: [torch.stack([t, t]).mean() for t in terms],
    "a cat": lambda terms: list(torch.cat([t[None] for t in terms])),
}


@pytest.mark.parametrize("kind", [*TAKEN, *OTHERS])
@given(m=st.integers(2, 4), trunk=st.booleans(), engine=st.sampled_from(["auto", "autograd", "hooks", "batched"]))
@settings(max_examples=6)
def test_gradients_are_those_of_the_terms(kind: str, m: int, trunk: bool, engine: str) -> None:
    take = (TAKEN | OTHERS)[kind]
    net = nn.Linear(3, 2).double()
    params = list(net.parameters())
    counts = [[0] for _ in range(m)]
    rows_of = torch.autograd.functional.jacobian  # one row for each loss, by parameters that are arguments

    def losses(*p: Tensor) -> tuple[Tensor, ...]:
        def model(x: Tensor) -> Tensor:
            return nn.functional.linear(x, *p)

        return tuple(take(terms_of(model, m, trunk, [[0] for _ in range(m)])))

    expected = rows_of(losses, tuple(params))
    if engine == "batched":  # the counter has no rule for it
        values = take([t.square() for t in net(torch.ones(1, 3).double().expand(m, 3)).sum(1)])
        expected = [torch.autograd.grad(v, params, retain_graph=True) for v in values]
    else:
        values = take(terms_of(net, m, trunk, counts))
    named = {str(i): value for i, value in enumerate(values)}
    found = loss_gradients(named, params, names=None, engine=engine)
    tolerance = 1e-6 if kind == "another precision" else 1e-12
    for row, right in zip(found.rows, expected, strict=True):
        for g, h in zip(row, right, strict=True):
            torch.testing.assert_close(g, h, rtol=tolerance, atol=tolerance)
    if kind in TAKEN and engine in ("auto", "autograd"):
        assert counts == [[1]] * m


@pytest.mark.parametrize("kind", TAKEN)
def test_where_the_walk_begins(kind: str) -> None:
    net = nn.Linear(3, 2).double()
    losses = TAKEN[kind](terms_of(net, 3, True, [[0]] * 3))
    starts = starts_of(losses, list(net.parameters()))
    assert [isinstance(start, Entry) and start.index % 3 for start in starts] == [0, 1, 2]


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_walked_as_it_is(kind: str) -> None:
    net = nn.Linear(3, 2).double()
    losses = OTHERS[kind](terms_of(net, 3, True, [[0]] * 3))
    assert not any(isinstance(start, Entry) for start in starts_of(losses, list(net.parameters())))


def test_what_others_have_in_the_stack() -> None:
    """Weights that are learned, a term that is a parameter or a constant, and a stack that is differentiated by."""
    p, w = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    stack = torch.stack([p.exp(), p, torch.zeros(()).double()])
    for i, loss in enumerate(stack):
        (row,) = loss_gradients({"a": loss}, [p], names=None, engine="autograd", retain_graph=True).rows
        assert row[0].item() == pytest.approx([torch.e, 1, 0][i])
    learned = torch.stack([p.exp(), p.sin()]) * torch.stack([w, w.exp()])
    found = list(loss_gradients({"a": learned[0], "b": learned[1]}, [p, w], names=None, engine="autograd").rows)
    assert [g.item() for g in found[0]] == pytest.approx([torch.e, torch.e])
    entries = torch.stack([p.exp(), p.sin()])
    (row,) = loss_gradients({"a": 3 * entries[1]}, [entries], names=None, engine="autograd").rows
    assert row[0].tolist() == [0, 3]


def test_hooks_run_once() -> None:
    p = torch.ones((), dtype=torch.float64, requires_grad=True)
    terms = [p.exp(), p.sin()]
    stack = torch.stack(terms)
    losses = {"a": stack[0], "b": stack[1]}
    ran: list[tuple[str, float | list[float]]] = []
    for name, tensor in {"term": terms[0], "loss": losses["a"]}.items():
        tensor.register_hook(lambda g, name=name: ran.append((name, g.tolist())))
    list(loss_gradients(losses, [p], names=None, engine="autograd").rows)
    assert ran == [("loss", 1.0), ("term", 1.0)]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_behind_a_stack(reentrant: bool) -> None:
    """Reentrant ones go by way of the hooks engine, through the stack."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    directions = []
    for take in (list, TAKEN["times weights"]):
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
        y = checkpoint(net, x, use_reentrant=reentrant)
        terms = [y[:, 0].square().mean(), y[:, 1].exp().mean()]
        opt.backward(dict(zip("ab", take([2 * terms[0], 0.5 * terms[1]] if take is list else terms), strict=True)))
        directions.append([p.grad.clone() for p in net.parameters()])
        opt.zero_grad()
    for g, h in zip(*directions, strict=True):
        torch.testing.assert_close(g, h, rtol=1e-12, atol=1e-12)
