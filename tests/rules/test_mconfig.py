"""M-ConFIG against its algorithm on vectors, and against the authors' package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradweight import MultiObjectiveGradient
from gradweight.rules import ConFIG, MConFIG

from .averaged_training import NAMES, batch, followed, losses_of, network, parameters, trained, wrapped

ROUND_ROBIN = [[NAMES[i % 3]] for i in range(8)]
SEVERAL = [None, ["a", "b"], ["c"], None, ["b"]]


class Momenta:
    """Algorithm 1 up to its second moment: uncorrected momenta, corrected where they are combined."""

    def __init__(self, beta: float) -> None:
        self.beta, self.momenta, self.times = beta, np.zeros(()), np.zeros(3)

    def __call__(self, step: int, rows: np.ndarray, losses: np.ndarray, due: Any) -> np.ndarray:
        if self.momenta.ndim == 0:
            self.momenta = np.zeros_like(rows)
        for i in np.flatnonzero(due):
            self.momenta[i] = self.beta * self.momenta[i] + (1 - self.beta) * rows[i]
            self.times[i] += 1
        seen = self.times > 0
        corrected = self.momenta[seen] / (1 - self.beta ** self.times[seen])[:, None]
        units = corrected / np.linalg.norm(corrected, axis=1, keepdims=True)
        along = np.linalg.pinv(units) @ np.ones(len(units))
        along /= np.linalg.norm(along)
        return np.asarray((corrected @ along).sum() * along)


@pytest.mark.parametrize("dues", [[None] * 5, ROUND_ROBIN, SEVERAL], ids=["all", "round robin", "several"])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_algorithm_1_on_vectors(beta: float, dues: Any) -> None:
    np.testing.assert_allclose(trained(MConFIG(beta), dues), followed(Momenta(beta), dues), rtol=1e-10, atol=1e-12)


def test_without_memory_it_is_config() -> None:
    np.testing.assert_allclose(trained(MConFIG(0.0), [None] * 4), trained(ConFIG(), [None] * 4), rtol=1e-12)


def test_for_adam_the_step_is_that_of_the_paper() -> None:
    """Algorithm 1 to its end, on vectors: the second moment is of the gradients that d is the first moment of."""
    net, rule = network(), MConFIG(0.8, for_adam=True)
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-8), rule)
    momenta, at = Momenta(0.8), parameters(net)
    moment = second = np.zeros_like(at)
    for t in range(1, 9):
        due = [NAMES[t % 3]]
        losses = losses_of(net, batch(t))
        opt.zero_grad()
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)])
            for loss in losses.values()
        ]
        opt.backward(losses, due=due)
        opt.step()
        d = momenta(t, torch.stack(rows).numpy(), np.zeros(3), [name in due for name in NAMES])
        estimated = (d * (1 - 0.8**t) - 0.8 * moment) / (1 - 0.8)
        moment = 0.8 * moment + (1 - 0.8) * estimated
        second = 0.9 * second + (1 - 0.9) * estimated**2
        at = at - 0.01 * d / (np.sqrt(second / (1 - 0.9**t)) + 1e-8)
        np.testing.assert_allclose(parameters(net), at, rtol=1e-9, atol=1e-10)


def test_for_adam_leaves_what_is_not_the_block_s_alone() -> None:
    grads = {}
    for for_adam in (False, True):
        net = network()
        opt = MultiObjectiveGradient(
            torch.optim.SGD(net.parameters(), lr=0.0),
            MConFIG(for_adam=for_adam),
            trunk=net[0],  # type: ignore[index]
        )
        for i in (1, 2):
            opt.zero_grad()
            opt.backward(losses_of(net, batch(i)))
            opt.step()
        grads[for_adam] = [p.grad for p in net.parameters()]
    same = [
        torch.equal(a, b) for a, b in zip(grads[False], grads[True], strict=True) if a is not None and b is not None
    ]
    assert same == [False, False, True, True]


def test_the_momenta_are_those_of_the_authors() -> None:
    """Of their package, whose direction is divided by the root of a second moment: multiplied by that again."""
    operators = pytest.importorskip("conflictfree.momentum_operator")
    # by the pseudo-inverse: torch.linalg.lstsq, their default, is another thing now and then, in 1 of 150 calls here
    config = operators.ConFIGOperator(use_least_square=False)
    theirs = operators.PseudoMomentumOperator(3, beta_1=0.9, beta_2=0.999, gradient_operator=config)
    net = network()
    opt = wrapped(MConFIG(0.9), net)
    for step in range(1, 8):
        names = list(NAMES) if step == 1 else [NAMES[step % 3]]  # they begin when every loss was due once
        losses = losses_of(net, batch(step))
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(losses[n], list(net.parameters()), retain_graph=True)])
            for n in names
        ]
        # in float32, which their solver takes
        divided = theirs.calculate_gradient([NAMES.index(n) for n in names], [row.float() for row in rows])
        expected = divided * ((theirs.s / (1 - 0.999**theirs.t)).sqrt() + 1e-8)
        opt.zero_grad()
        opt.backward(losses, due=names)
        found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        torch.testing.assert_close(found, expected.to(found), rtol=1e-4, atol=1e-4)
        opt.step()


def test_only_the_loss_that_is_due_is_walked_back() -> None:
    net = network()
    opt = wrapped(MConFIG(), net)
    for due in NAMES:
        losses = losses_of(net, batch(1))
        others = [loss for name, loss in losses.items() if name != due]
        for loss in others:
            loss.register_hook(lambda grad: pytest.fail("a loss that is not due was walked back"))  # type: ignore[no-untyped-call]
        opt.zero_grad()
        seen = opt.backward(losses, due=due)
        opt.step()
        assert [bool(x) for x in seen.losses.isnan()] == [name != due for name in NAMES]
    assert opt.last is not None
    assert (opt.last.norms > 0).all()


def test_only_the_function_that_is_due_is_called() -> None:
    net = network()
    opt = wrapped(MConFIG(), net)
    called = []

    def function(name: str) -> Any:
        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            called.append(name)
            return losses_of(lambda x: torch.func.functional_call(net, p, (x,)), batch(1))[name]  # type: ignore[arg-type]

        return loss

    for due in NAMES:
        opt.zero_grad()
        opt.backward({name: function(name) for name in NAMES}, due=due)
        opt.step()
    assert called == list(NAMES)
    by_tensors = trained(MConFIG(), [])  # no step: the parameters at first
    assert not np.array_equal(by_tensors, torch.cat([p.detach().flatten() for p in net.parameters()]).numpy())


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_errors(beta: float) -> None:
    with pytest.raises(ValueError, match=r"MConFIG needs beta in \[0, 1\)"):
        MConFIG(beta)
