"""Micro-batches without rows: they come through `join`, each with weights of its own."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, UPGrad

from .streamed_steps import wrapped

pytestmark = pytest.mark.usefixtures("double")


def test_a_second_backward_before_the_step_is_an_error():
    w, opt = wrapped()
    opt.backward({"a": 3 * w[0], "b": 4 * w[1]})
    before = w.grad.clone()
    with pytest.raises(RuntimeError, match=r"micro-batches that came through join alone, \(opt.join\(losses\) / n"):
        opt.backward({"a": 3 * w[0], "b": 4 * w[1]})
    assert torch.equal(w.grad, before)
    opt.step()
    opt.zero_grad()
    opt.backward({"a": 3 * w[0], "b": 4 * w[1]})


@pytest.mark.parametrize("options", [{}, {"refresh_every": 2}])
@pytest.mark.parametrize("rule", [AngleBisector(), UPGrad()])
def test_micro_batches_add_up_with_weights_of_their_own(rule, options):
    """The mean of the directions that the row engine finds for each by itself; beside what others left in .grad."""

    def step(engine):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule, engine=engine, **options)
        net[0].bias.sum().backward()
        found = []
        for x in torch.randn(3, 5, 3):
            out = net(x)
            losses = {str(i): out[:, i].square().mean() for i in range(3)}
            if engine == "gram":
                (opt.join(losses) / 3).backward()
            else:
                before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
                opt.zero_grad()
                opt.backward(losses)
                for p, grad in zip(net.parameters(), before, strict=True):
                    p.grad = p.grad / 3 if grad is None else p.grad / 3 + grad
            found.append(opt.last)
        return [p.grad for p in net.parameters()], found

    (expected, by_itself), (found, seen) = step("autograd"), step("gram")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    for a, b in zip(seen, by_itself, strict=True):
        for name in ("losses", "gram", "weights"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-8, atol=1e-10)


def test_a_micro_batch_that_cannot_be_added_changes_nothing():
    w, opt = wrapped()
    (opt.join({"a": 3 * w[0], "b": 4 * w[1]}) / 2).backward()
    before = w.grad.clone()
    with pytest.raises(ValueError, match=r"need all losses; this one lacks \['b'\]"):
        (opt.join({"a": 3 * w[0], "b": None}) / 2).backward()
    assert torch.equal(w.grad, before)
    w, opt = wrapped(accumulate=False)
    opt.join({"a": 3 * w[0], "b": 4 * w[1]}).backward()
    scalar = opt.join({"a": 3 * w[0], "b": 4 * w[1]})
    with pytest.raises(RuntimeError, match="accumulate=False says that a step is one backward"):
        scalar.backward()


def test_a_gradient_that_is_not_finite_stays():
    w, opt = wrapped()
    (opt.join({"a": torch.inf * w[0], "b": 4 * w[1]}) / 2).backward()
    (opt.join({"a": 3 * w[0], "b": 4 * w[1]}) / 2).backward()
    assert w.grad.isnan().all()
