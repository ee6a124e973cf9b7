"""Bad use is told what was needed and what was given, and leaves everything as it was."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.rules import AdaptiveWeights, Constant, Sum


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


def reentrant(s):
    out = checkpoint(s.net, s.x.clone().requires_grad_(), use_reentrant=True)
    return {"real": out[:, 0].sum(), "fake": out[:, 1].sum()}


stranger = nn.Parameter(torch.ones(2, dtype=torch.float64))

BAD_LOSSES = {
    "empty": (lambda s: {}, ValueError, "at least one loss; got an empty mapping"),
    "not a mapping": (lambda s: s.losses()["real"], TypeError, "must be a mapping .*got Tensor"),
    "a list": (lambda s: list(s.losses().values()), TypeError, "must be a mapping .*got list"),
    "name not a str": (lambda s: {0: s.losses()["real"]}, TypeError, "names of losses must be str; got 0 of type int"),
    "not a scalar": (lambda s: s.losses() | {"fake": s.net(s.x)}, ValueError, r"'fake' must be a scalar.*\(5, 2\)"),
    "a number": (lambda s: s.losses() | {"fake": 1.0}, TypeError, "'fake' must be a scalar tensor; got float"),
    "none": (lambda s: s.losses() | {"fake": None}, TypeError, "'fake' must be a scalar tensor; got NoneType"),
    "an integer tensor": (lambda s: s.losses() | {"fake": torch.tensor(1)}, TypeError, "'fake' must be real.*int64"),
    "complex": (
        lambda s: s.losses() | {"fake": s.losses()["real"] * 1j},
        TypeError,
        "'fake' must be real and floating-point; got torch.complex128",
    ),
    "detached": (
        lambda s: s.losses() | {"fake": s.losses()["fake"].detach()},
        ValueError,
        "'fake' has no graph .*detached",
    ),
    "another model's": (
        lambda s: s.losses() | {"fake": stranger.sum()},
        ValueError,
        "'fake' reaches none of the parameters of the base optimizer",
    ),
    "other names": (
        lambda s: {"real": s.losses()["real"], "penalty": s.losses()["fake"]},
        ValueError,
        r"need the same losses: \['real', 'fake'\] before, \['real', 'penalty'\] now; call zero_grad",
    ),
    "fewer names": (lambda s: {"real": s.losses()["real"]}, ValueError, r"before, \['real'\] now"),
    "more names": (
        lambda s: s.losses() | {"penalty": s.losses()["fake"]},
        ValueError,
        r"before, \['real', 'fake', 'penalty'\] now",
    ),
    "functions and tensors": (
        lambda s: s.losses() | {"fake": lambda p: p["0.bias"].sum()},
        TypeError,
        "all tensors or all functions of the parameters; 'real' is Tensor",
    ),
    "a function that returns no mapping": (lambda s: lambda p: p["0.bias"].sum(), TypeError, "mapping .*got Tensor"),
    "a function that returns no scalar": (
        lambda s: {"real": lambda p: p["0.bias"], "fake": lambda p: p["0.bias"].sum()},
        ValueError,
        r"'real' must be a scalar; got shape \(4,\)",
    ),
    "a function that fails": (lambda s: lambda p: p["absent"], KeyError, "absent"),
}


@pytest.mark.parametrize(("make", "error", "match"), BAD_LOSSES.values(), ids=BAD_LOSSES)
@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_losses(make, error, match, engine):
    setting, twin = (Setting(options={"engine": engine}) for _ in range(2))
    losses = make(setting)
    with refused(setting, twin, error, match):
        setting.opt.backward(losses)


def test_a_function_that_ignores_the_parameters_it_is_given():
    setting, twin = (Setting() for _ in range(2))
    losses = {"real": lambda p: setting.losses()["real"], "fake": lambda p: p["0.bias"].sum()}
    with refused(setting, twin, ValueError, "'real' (reaches none of the parameters|has no graph)"):
        setting.opt.backward(losses)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_a_loss_that_reaches_nothing_is_found_before_any_graph_is_spent(engine):
    setting = Setting(options={"engine": engine})
    losses = setting.losses()
    with pytest.raises(ValueError, match="'stranger' reaches none"):
        setting.opt.backward(losses | {"stranger": stranger.sum()})
    assert stranger.grad is None
    setting.opt.backward(losses)


def test_a_spent_graph():
    setting, twin = (Setting() for _ in range(2))
    losses = setting.losses()
    torch.autograd.grad(losses["fake"], list(setting.net.parameters()), allow_unused=True)
    with refused(setting, twin, RuntimeError, "second time"):
        setting.opt.backward(losses)


def test_tensors_for_the_func_engine():
    setting, twin = (Setting(options={"engine": "func"}) for _ in range(2))
    losses = setting.losses()
    with refused(setting, twin, TypeError, "engine='func' needs losses that are functions .* got tensors"):
        setting.opt.backward(losses)


def test_a_reentrant_checkpoint_for_the_autograd_engine():
    setting, twin = (Setting(options={"engine": "autograd"}) for _ in range(2))
    losses = reentrant(setting)
    with refused(setting, twin, RuntimeError, "engine='autograd' cannot see through .*use_reentrant=True"):
        setting.opt.backward(losses)


def test_a_second_backward_in_place():
    setting, twin = (Setting(options={"accumulate": False}) for _ in range(2))
    with refused(setting, twin, RuntimeError, "accumulate=False says"):
        setting.good_backward()


# ---- signals

SIGNALS = {
    "missing": (AdaptiveWeights(), {"real_score": 0.5}, r"AdaptiveWeights needs .*'fake_score'.*\['real_score'\]"),
    "none": (AdaptiveWeights(), {}, "AdaptiveWeights needs the signal '(real|fake)_score'.*no signals"),
    "unknown": (
        AdaptiveWeights(),
        {"real_score": 0.5, "fake_score": 0.5, "score": 1.0},
        r"AdaptiveWeights has no signal 'score'; it takes \['fake_score', 'real_score'\]",
    ),
    "unknown to a rule without": (Sum(), {"score": 1.0}, r"Sum has no signal 'score'; it takes none"),
    "one that comes by itself": (Sum(), {"names": ("a", "b")}, "Sum has no signal 'names'"),
    "step": (Averaging(), {"step": 3}, "Averaging has no signal 'step'"),
}


@pytest.mark.parametrize(("rule", "given", "match"), SIGNALS.values(), ids=SIGNALS)
def test_signals(rule, given, match):
    setting, twin = Setting(rule), Setting(rule)
    losses = setting.losses()
    with refused(setting, twin, TypeError, match):
        setting.opt.backward(losses, **given)


@pytest.mark.parametrize(
    ("score", "error", "match"),
    [
        (None, TypeError, "the signal 'real_score' must be a 0-dim tensor or a number; got NoneType"),
        ([0.5], TypeError, "the signal 'real_score' must be a 0-dim tensor or a number; got list"),
        (torch.rand(5), ValueError, r"shape \(2, 5\) \(was it given a signal that is not 0-dim\?\)"),
    ],
)
def test_a_signal_of_another_kind(score, error, match):
    setting, twin = Setting(AdaptiveWeights()), Setting(AdaptiveWeights())
    losses = setting.losses()
    with refused(setting, twin, error, match):
        setting.opt.backward(losses, real_score=score, fake_score=0.5)


def test_a_signal_that_only_some_micro_batches_have():
    setting, twin = (Setting(lambda gram, *, score=None: gram[0] * 0 + 1) for _ in range(2))
    losses = setting.losses()
    with refused(setting, twin, (TypeError, ValueError), "score"):
        setting.opt.backward(losses, score=1.0)


def test_a_signal_that_a_later_micro_batch_lacks():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), lambda gram, *, score=None: gram[0] * 0 + 1)
    opt.backward({"a": w.sum()}, score=1.0)
    with pytest.raises((TypeError, ValueError), match="score"):
        opt.backward({"a": w.sum()})


# ---- rules

ANSWERS = {
    "too many": (lambda w: torch.cat([w, w]), ValueError, r"Averaging must return one weight .*\(2,\).*\(4,\)"),
    "a matrix": (lambda w: w[:, None] * w, ValueError, r"Averaging must return one weight .*\(2,\).*\(2, 2\)"),
    "one number": (lambda w: w.sum(), ValueError, r"Averaging must return one weight .*\(2,\).*\(\)"),
    "a list": (lambda w: w.tolist(), TypeError, "Averaging must return weights as a Tensor; got list"),
    "an array": (lambda w: w.numpy(), TypeError, "Averaging must return weights as a Tensor; got ndarray"),
    "nothing": (lambda w: None, TypeError, "Averaging must return weights as a Tensor; got NoneType"),
    "an exception": (lambda w: 1 / 0, ZeroDivisionError, "division"),
}


@pytest.mark.parametrize(("answer", "error", "match"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_what_a_rule_returns(answer, error, match, engine):
    """Found only once all gradients are there, with the second micro-batch's rows already added up."""
    setting, twin = (Setting(options={"engine": engine}) for _ in range(2))
    losses = setting.losses()
    setting.rule.answer = answer
    with refused(setting, twin, error, match):
        try:
            setting.opt.backward(losses)
        finally:
            setting.rule.answer = lambda weights: weights


def test_a_coordinate_rule_that_returns_another_shape():
    class Flat:
        flat = False

        def combine(self, rows, /):
            # fails on the last parameter only: the others must not have been written by then
            return rows.sum(0).flatten()[:-1] if self.flat and rows.shape[-1] == 2 else rows.sum(0)

    setting, twin = (Setting(Flat()) for _ in range(2))
    losses = setting.losses()
    setting.rule.flat = True
    with refused(setting, twin, ValueError, r"must return the direction of a parameter, shape \(2,\).*\(1,\)"):
        try:
            setting.opt.backward(losses)
        finally:
            setting.rule.flat = False


def test_a_constant_without_a_weight_for_a_loss():
    setting, twin = (Setting(Constant({"real": 1.0, "fake": 2.0})) for _ in range(2))
    setting.opt.zero_grad()
    twin.opt.zero_grad()
    losses = {"real": setting.losses()["real"], "other": setting.losses()["fake"]}
    with refused(setting, twin, ValueError, r"Constant has no weight for the loss 'other'; it has \['fake', 'real'\]"):
        setting.opt.backward(losses)


# ---- construction


class NotARule:
    pass


def _sgd():
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


CONSTRUCTIONS = {
    "SparseAdam": (
        lambda: (torch.optim.SparseAdam([nn.Parameter(torch.ones(1))]), Sum()),
        TypeError,
        "dense gradients.*got SparseAdam: use Adam",
    ),
    "LBFGS": (lambda: (torch.optim.LBFGS([nn.Parameter(torch.ones(1))]), Sum()), TypeError, "no closure; got LBFGS"),
    "no optimizer": (lambda: ([nn.Parameter(torch.ones(1))], Sum()), TypeError, "torch.optim.Optimizer; got a list"),
    "a class": (lambda: (torch.optim.SGD, Sum()), TypeError, "torch.optim.Optimizer; got the class SGD"),
    "a rule's class": (lambda: (_sgd(), Sum), TypeError, r"instance; got the class Sum: write Sum\(\)"),
    "no rule": (lambda: (_sgd(), NotARule()), TypeError, "a rule must be callable .*an instance of NotARule"),
    "no rule at all": (lambda: (_sgd(), None), TypeError, "a rule must be callable .*NoneType"),
}


@pytest.mark.parametrize(("make", "error", "match"), CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_construction(make, error, match):
    base, rule = make()
    with pytest.raises(error, match=match):
        MultiObjectiveGradient(base, rule)


def test_an_unknown_engine():
    with pytest.raises(
        ValueError, match=r"engine must be one of \['auto', 'autograd', 'batched', 'func', 'hooks'\]; got 'vmap'"
    ):
        MultiObjectiveGradient(_sgd(), Sum(), engine="vmap")


def test_no_parameter_that_requires_a_gradient():
    base = torch.optim.SGD([torch.ones(2)], lr=0.1)
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="needs a parameter that requires a gradient"):
        MultiObjectiveGradient(base, Sum()).backward({"a": w.sum()})
