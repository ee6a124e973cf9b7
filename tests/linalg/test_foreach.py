"""Where each operation is launched: the same sums in a few operations on lists of tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost.counting import launches
from gradweight import MultiObjectiveGradient
from gradweight.linalg import foreach as together
from gradweight.linalg import gram as gram_module
from gradweight.linalg import weighted_sum as weighted_sum_module
from gradweight.linalg.gram import CUTS
from gradweight.linalg.rows import accumulate
from gradweight.linalg.weighted_sum import weighted_sum
from gradweight.rules import AngleBisector

from .test_rows import check_combination, problems


@pytest.fixture
def asked(monkeypatch):
    """The CPU as if each operation had to be launched."""
    monkeypatch.setattr(weighted_sum_module, "is_launch_bound", lambda device: True)
    monkeypatch.setitem(CUTS, "cpu", CUTS["cuda"])
    monkeypatch.setattr(gram_module, "is_host_readable", lambda tensor: False)


@given(problem=problems(), in_place=st.booleans(), part=st.sampled_from([1, 20, 2**26]))
def test_combining_together_is_the_weighted_sum(problem, in_place, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weighted_sum_module, "is_launch_bound", lambda device: True)
        patch.setattr(together, "PART", part)
        check_combination(problem, in_place)


def few_and_many(m, holes=False):
    for parameters in (4, 400):
        rows = [[torch.randn(3, 5) for _ in range(parameters)] for _ in range(m)]
        if holes:
            rows[-1][: parameters // 2] = [None] * (parameters // 2)
        yield rows, [torch.empty(3, 5) for _ in range(parameters)]


@pytest.mark.parametrize(("m", "holes"), [(1, False), (2, False), (2, True), (5, False), (5, True)])
def test_launches_of_a_direction_do_not_grow_with_the_number_of_tensors(asked, m, holes):
    few, many = (
        launches(lambda rows=rows, out=out: weighted_sum(rows, torch.ones(m), out))
        for rows, out in few_and_many(m, holes)
    )
    assert many == few <= (1 + holes) * 2 * m + 2
    few, many = (
        launches(lambda rows=rows: accumulate(rows, [[None if t is None else t * 1 for t in row] for row in rows]))
        - sum(t is not None for row in rows for t in row)  # of the line above
        for rows, _ in few_and_many(m, holes)
    )
    assert many == few == 1


def test_launches_do_not_grow_with_gradients_that_somebody_else_holds():
    """On a GPU that is the thread that walked back, for an instant after the last loss."""

    def count(parameters):
        old, new = ([[torch.randn(3, 5) for _ in range(parameters)]] for _ in range(2))
        held = list(new[0])
        found = launches(lambda: accumulate(old, new))
        assert all(then is now for then, now in zip(held, new[0], strict=True))
        return found

    assert count(400) == count(4) == 1


def test_launches_of_a_whole_step_beyond_autograd_and_the_base(asked):
    def count(layers):
        net = torch.nn.Sequential(*[torch.nn.Linear(3, 3) for _ in range(layers)])
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
        total = []
        for _ in range(2):
            opt.zero_grad()
            out = net(torch.ones(2, 3))
            losses = {"a": out.square().mean(), "b": out.abs().mean()}
            plain = launches(
                lambda losses=losses: [
                    torch.autograd.grad(v, net.parameters(), retain_graph=True) for v in losses.values()
                ]
            )
            total.append(launches(lambda losses=losses: opt.backward(losses)) - plain)
        # the first step makes its buffers
        return total[1]

    assert count(50) == count(2) <= 40
