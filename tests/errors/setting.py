"""A run that is told of bad use in the middle of training, and what it is then compared with."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.rules import AdaptiveWeights


class Averaging:
    """A stateful rule that also counts: weights are 1 over the running mean of the norms."""

    def __init__(self):
        self.answer = lambda weights: weights

    def init(self, gram, /):
        return {"mean": gram.diagonal() * 0 + 1}

    def update(self, gram, state, /, *, step):
        mean = (state["mean"] * (step + 1) + gram.diagonal().sqrt()) / (step + 2)
        return self.answer(1 / mean), {"mean": mean}


class Setting:
    """A small network in the middle of training: two steps taken, one micro-batch of the third done."""

    def __init__(self, rule=None, options=None):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.rule = rule or Averaging()
        self.base = torch.optim.Adam(list(self.net.named_parameters()), lr=0.1)
        self.opt = MultiObjectiveGradient(self.base, self.rule, **(options or {}))
        self.x = torch.randn(5, 3, dtype=torch.float64)
        self.options = options or {}
        self.signals = {"real_score": 0.3, "fake_score": 0.6} if isinstance(rule, AdaptiveWeights) else {}
        for _ in range(2):
            self.opt.zero_grad()
            self.good_backward()
            self.opt.step()
        self.opt.zero_grad()
        self.good_backward()

    def losses(self):
        out = self.net(self.x)
        return {"real": out[:, 0].square().mean(), "fake": out[:, 1].exp().mean()}

    def functions(self):
        def both(p):
            out = functional_call(self.net, p, (self.x,))
            return {"real": out[:, 0].square().mean(), "fake": out[:, 1].exp().mean()}

        return both

    def good_backward(self):
        losses = self.functions() if self.options.get("engine") == "func" else self.losses()
        return self.opt.backward(losses, **self.signals)

    def snapshot(self):
        tensors = {f"parameter {i}": p for i, p in enumerate(self.net.parameters())}
        tensors |= {f"grad {i}": p.grad for i, p in enumerate(self.net.parameters()) if p.grad is not None}
        return (
            {name: (id(t), t.detach().clone()) for name, t in tensors.items()},
            copy.deepcopy(self.base.state_dict()),
            self.opt.last,
        )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@contextmanager
def refused(setting, twin, error, match):
    """The block raises; nothing has changed; and the run goes on bit for bit as ``twin``, where it never happened."""
    tensors, state, last = setting.snapshot()
    with pytest.raises(error, match=match):
        yield
    now, state_now, last_now = setting.snapshot()
    assert {n: i for n, (i, _) in now.items()} == {n: i for n, (i, _) in tensors.items()}
    assert same({n: t for n, (_, t) in now.items()}, {n: t for n, (_, t) in tensors.items()})
    assert same(state_now, state)
    assert last_now is last
    for run in (setting, twin):
        if run.options.get("accumulate", True):
            run.good_backward()  # a second micro-batch: the accumulated rows were left alone as well
        run.opt.step()
        run.opt.zero_grad()
        run.good_backward()
        run.opt.step()
    for p, q in zip(setting.net.parameters(), twin.net.parameters(), strict=True):
        assert torch.equal(p, q)
    assert same(setting.base.state_dict(), twin.base.state_dict())
