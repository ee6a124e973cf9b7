"""Reading numbers where that waits for nobody: what counts as readable, and rules that are faster on NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight import MultiObjectiveGradient, rules
from gradweight.linalg.host_access import call_with_numpy, is_host_readable
from gradweight.rule import CoordinateRule, Signals, StatefulRule, faster_on_numpy_from
from gradweight.rules.claims import CLAIMS, NAMES

FASTER = [c for c in CLAIMS if not isinstance(c.rule, CoordinateRule)]


def test_plain_numbers_are_readable():
    assert is_host_readable(torch.eye(2))
    assert not is_host_readable(torch.eye(2, requires_grad=True))
    assert not is_host_readable(torch.eye(2, device="meta"))
    assert not is_host_readable(nn.Parameter(torch.eye(2)))
    with FakeTensorMode():
        assert not is_host_readable(torch.eye(2))


def test_what_a_transform_or_a_compiler_looks_at_is_not_readable():
    seen = []

    def look(x):
        seen.append(is_host_readable(x))
        return 2 * x

    torch.vmap(look)(torch.ones(3, 2))
    torch.func.grad(lambda x: look(x).sum())(torch.ones(2))
    assert seen == [False, False]
    branch = torch.compile(lambda x: x + 1 if is_host_readable(x) else x - 1, backend="eager", fullgraph=True)
    assert branch(torch.zeros(1)) == -1


def test_arrays_go_in_and_tensors_come_out():
    def rule(gram, /, *, names, losses, state):
        assert isinstance(gram, np.ndarray)
        assert isinstance(losses, np.ndarray)
        assert names == ("a", "b")
        return np.diagonal(gram), {"mean": state["mean"] + np.float32(1.5), "step": np.asarray(3)}

    matrix = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
    weights, state = call_with_numpy(
        rule, matrix, names=("a", "b"), losses=torch.ones(2), state={"mean": torch.zeros((), dtype=torch.float32)}
    )
    assert weights.tolist() == [1.0, 2.0]
    assert (state["mean"].dtype, state["mean"].item()) == (torch.float32, 1.5)
    assert state["step"].item() == 3
    weights += 1  # no view of the matrix
    assert matrix[0, 0] == 1


def test_every_rule_of_the_gram_matrix_is_marked():
    unmarked = {c.name for c in CLAIMS if faster_on_numpy_from(c.rule) > 1 and not isinstance(c.rule, CoordinateRule)}
    assert not unmarked


def test_an_average_of_a_rule_is_marked_as_that_rule():
    assert faster_on_numpy_from(rules.CRMOGM(rules.Mean())) == 1
    assert faster_on_numpy_from(rules.CRMOGM(lambda gram: torch.ones(len(gram)))) == math.inf


@pytest.mark.parametrize("claims", FASTER, ids=lambda claims: claims.name)
def test_both_ways_give_the_same_weights(claims):
    rule, m = claims.rule, min(4, claims.losses[1])
    if isinstance(rule, rules.SDMGrad):
        rule = rules.SDMGrad(lr=0.1)  # at its default rate a rounding error grows ninefold with each iteration
    gradients = torch.randn(m, 30)
    gram = gradients @ gradients.T
    entries = {"max_abs": gradients.abs().amax(1), "mean_abs": gradients.abs().mean(1)}
    signals = {"names": NAMES[:m], "losses": torch.rand(m), "step": torch.tensor(3)}
    given = Signals.of(rule).select(signals | (entries if Signals.of(rule).statistics else {}))
    given |= {name: torch.tensor(value) for name, value in claims.signals.items()}
    if isinstance(rule, StatefulRule):
        state = rule.init(gram)
        expected, found = rule.update(gram, state, **given)[0], call_with_numpy(rule.update, gram, state, **given)[0]
    else:
        expected, found = rule(gram, **given), call_with_numpy(rule, gram, **given)
    # sums are rounded in another order, and some rules' constants are double precision to NumPy
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=1e-4, atol=1e-5)


def test_who_is_shown_arrays():
    """A marked class is, from three losses on; a subclass, whose code may be torch, is not."""
    seen = []

    class Marked:
        faster_on_numpy_from = 3

        def __call__(self, gram):
            seen.append(type(gram))
            return 0 * gram[0] + 1

    class Sub(Marked):
        pass

    for rule in (Marked(), Sub(), lambda gram: Marked()(gram)):
        for m in (2, 3):
            w, shown = nn.Parameter(torch.ones(4)), len(seen)
            opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), rule)
            del seen[shown:]  # what it was probed with
            opt.backward({str(i): (w * (i + 1)).sum() for i in range(m)})
            assert w.grad.tolist() == [m * (m + 1) / 2] * 4
    assert seen == [torch.Tensor, np.ndarray, *[torch.Tensor] * 4]


def test_a_stateful_rule_keeps_tensors():
    class Counting:
        faster_on_numpy_from = 3

        def init(self, gram):
            return {"seen": torch.zeros(len(gram))}

        def update(self, gram, state):
            assert isinstance(gram, np.ndarray)
            assert isinstance(state["seen"], np.ndarray)
            return 0 * gram[0] + 1, {"seen": state["seen"] + 1}

    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Counting())
    for _ in range(2):
        opt.zero_grad()
        opt.backward({name: w.sum() for name in "abc"})
        opt.step()
    (state,) = [v for k, v in opt.param_groups[0]["rule_state"].items() if "state of" in k]
    assert state["seen"].tolist() == [2.0] * 3


def test_infinite_entries_raise_no_warning():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), rules.ConFIG())
    opt.backward({"a": w.sum() * float("inf"), "b": w.sum(), "c": w[0]})
    assert w.grad.isnan().all()
