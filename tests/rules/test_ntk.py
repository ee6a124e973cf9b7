"""NTK weights from Gram matrix and losses, from traces, and their average."""

import numpy as np
import pytest
import torch

from gradweight.rules import NTKWeight


def test_the_kernel_value_is_the_norm_of_the_gradient_of_the_root():
    w = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([(3 * w).square().sum(), (w[0] - 2 * w[1] + 1) ** 2])
    values = [torch.autograd.grad(x.sqrt(), w, retain_graph=True)[0].norm() for x in losses]
    rows = torch.stack([torch.autograd.grad(x, w, retain_graph=True)[0] for x in losses])
    rule, gram = NTKWeight(), rows @ rows.T
    weights, _ = rule.update(gram, rule.init(gram), losses=losses.detach())
    torch.testing.assert_close(weights, sum(values) / torch.stack(values))


def test_it_is_a_mean_of_the_kernels_eigenvalues_over_the_residual():
    rng = np.random.default_rng(0)
    residual, jacobian = rng.standard_normal(6), rng.standard_normal((6, 4))
    loss, gradient = np.mean(residual**2), 2 / 6 * jacobian.T @ residual
    quotient = residual @ jacobian @ jacobian.T @ residual / (6 * residual @ residual)
    rule, gram = NTKWeight(), np.array([[gradient @ gradient]])
    _, state = rule.update(gram, rule.init(gram), losses=np.array([loss]))
    np.testing.assert_allclose(state["kernels"] ** 2, quotient)


def test_averages_traces_and_corrects_for_the_start():
    rule, gram = NTKWeight(beta=0.9), np.eye(2)
    traces = np.random.default_rng(0).uniform(1, 5, (30, 2))
    state = rule.init(gram)
    for t in range(30):
        weights, state = rule.update(gram, state, losses=np.ones(2), traces=traces[t])
        decay = 0.9 ** np.arange(t, -1, -1)
        average = decay @ traces[: t + 1] / decay.sum()
        np.testing.assert_allclose(weights, average.sum() / average)
        np.testing.assert_allclose(state["kernels"] / state["count"], average)


def test_a_loss_that_is_solved_is_left_out():
    rule, gram = NTKWeight(), np.diag([4.0, 4.0, 0.0])
    weights, _ = rule.update(gram, rule.init(gram), losses=np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(weights, [1, 0, 0])


def test_errors():
    with pytest.raises(ValueError, match=r"NTKWeight needs beta in \[0, 1\); got 1"):
        NTKWeight(1)
