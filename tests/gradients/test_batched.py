"""One backward for all losses together: the same rows, at its own price, and what it cannot do said in words."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.gradients import auto, engines
from gradweight.rules import AngleBisector, Sum


def loss_gradients(losses, params, **options):
    """All backward passes run, and the rows in a list."""
    found = engines.loss_gradients(losses, params, **options)
    return replace(found, rows=list(found.rows))


def rows_of(losses, params, engine, **kwargs):
    return loss_gradients(losses, params, names=None, engine=engine, **kwargs).rows


@given(st.integers(1, 6), st.booleans(), st.integers(0, 2**16))
def test_the_rows_are_those_of_one_backward_for_each_loss(m, scaled, seed):
    torch.manual_seed(seed)
    trunk, heads = nn.Linear(3, 4).double(), [nn.Linear(4, 1).double() for _ in range(m)]
    params = [p for module in (trunk, *heads) for p in module.parameters()]
    x = torch.randn(5, 3, dtype=torch.float64)
    scale = torch.tensor(8.0) if scaled else None

    def losses():
        features = trunk(x).tanh()
        return {str(i): head(features).square().mean() for i, head in enumerate(heads)}

    expected = rows_of(losses(), params, "autograd", scale=scale)
    found = rows_of(losses(), params, "batched", scale=scale)
    for row, reference in zip(found, expected, strict=True):
        for t, r, p in zip(row, reference, params, strict=True):
            torch.testing.assert_close(t, torch.zeros_like(p) if r is None else r, rtol=1e-12, atol=1e-12)


def test_a_whole_step():
    w, unused = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(1))
    opt = MultiObjectiveGradient(torch.optim.SGD([w, unused], lr=0.1), AngleBisector(), engine="batched")
    for _ in range(2):  # two micro-batches
        opt.backward({"a": 3 * w[0], "b": 4 * w[1]})
    assert w.grad.tolist() == [1.0, 1.0]
    assert unused.grad is None
    assert opt.last.norms.tolist() == [6.0, 8.0]


def test_the_graph_is_kept_where_that_is_asked_for():
    w = nn.Parameter(torch.ones(2))
    loss = w.exp().sum()
    rows_of({"a": loss}, [w], "batched", retain_graph=True)
    rows_of({"a": loss}, [w], "batched")
    with pytest.raises(RuntimeError, match="second time"):
        rows_of({"a": loss}, [w], "autograd")


class Twice(Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        if gradient.sum() > 1e9:  # an operation without a batching rule: a choice by value
            return gradient
        return 2 * gradient


def test_what_cannot_be_vectorised_is_said():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Sum(), engine="batched")
    with pytest.raises(RuntimeError, match=r"engine='batched' could not vectorise .* engine='autograd' takes one"):
        opt.backward({"a": Twice.apply(w).sum(), "b": Twice.apply(w).square().sum()})
    assert w.grad is None
    with pytest.raises(RuntimeError, match=r"engine='batched' cannot see through torch\.utils\.checkpoint"):
        opt.backward({"a": checkpoint(torch.exp, w, use_reentrant=True).sum(), "b": w.sum()})
    assert opt.backward({"a": w.sum(), "b": w[0]}).weights.tolist() == [1.0, 1.0]


def test_sparse_embeddings_are_refused_in_words():
    table = nn.Embedding(4, 2, sparse=True)
    with pytest.raises(RuntimeError, match="engine='batched' could not vectorise"):
        rows_of({"a": table(torch.tensor([1])).sum()}, [table.weight], "batched")


def test_a_loss_that_reaches_nothing_is_named():
    w, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="the loss 'b' reaches none"):
        rows_of({"a": w.sum(), "b": other.sum()}, [w], "batched")


class Heads:
    """Four heads on one trunk, as on a device where launches are what costs."""

    def __init__(self, monkeypatch, activation, losses=4):
        monkeypatch.setattr(auto, "is_launch_bound", lambda device: True)
        torch.manual_seed(0)
        trunk = [layer for _ in range(4) for layer in (nn.Linear(3, 3), nn.Tanh())]
        self.net = nn.ModuleDict({"trunk": nn.Sequential(*trunk), "heads": nn.Linear(3, losses)})
        self.activation, self.names = activation, "abcd"[:losses]
        self.opt = MultiObjectiveGradient(torch.optim.SGD(self.net.parameters(), lr=0.1), AngleBisector())

    def step(self, x):
        y = self.net["heads"](self.activation(self.net["trunk"](x)))
        self.opt.zero_grad()
        self.opt.backward({name: y[:, i].square().mean() for i, name in enumerate(self.names)})
        self.opt.step()
        return [p.detach().clone() for p in self.net.parameters()]


class Unbatched(Function):
    """A custom function without a vmap rule."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        Unbatched.calls += 1
        return torch.from_numpy(g.numpy().copy())


@pytest.mark.parametrize(("activation", "engine"), [(torch.sin, "batched"), (Unbatched.apply, "autograd")])
def test_auto_is_batched_where_that_pays_and_works(monkeypatch, activation, engine):
    heads = Heads(monkeypatch, activation)
    for _ in range(3):
        x = torch.randn(5, 3)
        found = heads.step(x)
        assert heads.opt.engine_used == engine
    monkeypatch.undo()
    torch.manual_seed(0)
    reference = Heads(monkeypatch, activation)
    monkeypatch.undo()
    for i in range(3):
        x = torch.randn(5, 3)
        expected = reference.step(x)
        assert reference.opt.engine_used == "autograd", i
    # the same batches, since both begin with the same seed
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)  # float32, summed in another order


def test_auto_is_one_backward_each_for_two_losses_or_graphs_of_their_own(monkeypatch):
    two = Heads(monkeypatch, torch.sin, losses=2)
    two.step(torch.randn(5, 3))
    assert two.opt.engine_used == "autograd"
    net = nn.Linear(3, 1)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    opt.backward({name: net(torch.randn(5, 3)).square().mean() for name in "abc"})
    assert opt.engine_used == "autograd"
