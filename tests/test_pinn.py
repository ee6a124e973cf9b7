"""Traces of neural tangent kernels by probes, against the Jacobian; weights of points, against their recursion."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.pinn import kernel_trace, residual_attention
from gradweight.rules import NTKWeight


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    return net, torch.randn(5, 2, dtype=torch.float64)


def kernel(net, x):
    rows = [torch.autograd.grad(net(x).flatten()[i], net.parameters()) for i in range(len(x))]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return jacobian @ jacobian.T


def test_mean_and_deviation_are_those_of_the_formula(problem):
    net, x = problem
    k = kernel(net, x)
    found = torch.stack([kernel_trace(net(x), net.parameters()) for _ in range(400)])
    off_diagonal = k - k.diagonal().diag()
    deviation = (2 * off_diagonal.square().sum()).sqrt()
    # four standard errors of a mean of 400, and a variance of bounded numbers to a quarter
    assert abs(found.mean() - k.trace()) < 4 * deviation / 20
    torch.testing.assert_close(found.std(), deviation, rtol=0.25, atol=0)


def test_every_probe_of_all_signs_together_is_the_trace(problem, monkeypatch):
    """All 2^5 vectors of signs: their mean has no error."""
    net, x = problem
    signs = iter(torch.cartesian_prod(*[torch.tensor([0, 1])] * 5))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(signs)[:, None])
    torch.testing.assert_close(kernel_trace(net(x), net.parameters(), probes=32), kernel(net, x).trace())


def test_in_training(problem):
    net, x = problem
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), NTKWeight(beta=0.99))
    residuals = {"pde": net(x) - 1, "boundary": 3 * net(2 * x)}
    traces = torch.stack([kernel_trace(r, net.parameters()) for r in residuals.values()])
    seen = opt.backward({name: r.square().mean() for name, r in residuals.items()}, traces=traces)
    torch.testing.assert_close(seen.weights, traces.sum() / traces)


def test_errors(problem):
    net, x = problem
    with pytest.raises(ValueError, match="probes must be at least 1; got 0"):
        kernel_trace(net(x), net.parameters(), probes=0)
    with pytest.raises(ValueError, match="needs a residual with a graph"):
        kernel_trace(x, net.parameters())


def test_attention_is_the_recursion_and_bounded():
    torch.manual_seed(0)
    weights, expected = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(50):
        residual = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        weights = residual_attention(residual, weights, decay=0.9, rate=0.05)
        expected = 0.9 * expected + 0.05 * residual.detach().abs() / residual.detach().abs().max()
        torch.testing.assert_close(weights, expected)
    assert not weights.requires_grad
    assert weights.max() < 0.5
    torch.testing.assert_close(residual_attention(torch.zeros(3), torch.ones(3)), torch.full((3,), 0.999))


def test_attention_errors():
    for given, message in (({"decay": 1.0}, r"decay in \[0, 1\); got 1.0"), ({"rate": 0.0}, "rate > 0; got 0.0")):
        with pytest.raises(ValueError, match=message):
            residual_attention(torch.ones(2), torch.ones(2), **given)
    with pytest.raises(ValueError, match=r"one weight for each entry of the residual, shape \(2,\); got \(3,\)"):
        residual_attention(torch.ones(2), torch.ones(3))
