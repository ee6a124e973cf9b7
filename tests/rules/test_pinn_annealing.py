"""The annealing weights of physics-informed networks."""

import numpy as np
import pytest
import torch

from gradweight import MultiObjectiveGradient
from gradweight.rules import PINNAnnealing, PINNNormAnnealing

NAMES = ("boundary", "residual", "data")


def update(rule, state, rows):
    """One update from the dense gradients, (m, k)."""
    entries = np.abs(rows)
    return rule.update(rows @ rows.T, state, names=NAMES, max_abs=entries.max(1), mean_abs=entries.mean(1))


def test_maximum_over_mean_is_a_moving_average_from_one():
    rule, rng, expected = PINNAnnealing(alpha=0.25), np.random.default_rng(0), np.ones(3)
    state = rule.init(np.eye(3))
    for scales in ([1.0, 300.0, 0.01], [2.0, 1.0, 4.0], [1e-4, 1e4, 1.0]):
        rows = rng.standard_normal((3, 20)) * np.array(scales)[:, None]
        for i in (0, 2):
            expected[i] = 0.75 * expected[i] + 0.25 * np.abs(rows[1]).max() / np.abs(rows[i]).mean()
        weights, state = update(rule, state, rows)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)
        assert weights[1] == 1


def test_largest_and_mean_entries_are_those_of_the_whole_network():
    """A physics-informed network against Algorithm 1 on dense gradients; the residual does not reach the last bias."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    params = list(net.parameters())
    opt = MultiObjectiveGradient(torch.optim.SGD(params, lr=0.01), PINNAnnealing(alpha=0.3))
    expected = np.ones(3)
    for _ in range(3):
        x = torch.rand(16, 1, dtype=torch.float64, requires_grad=True)
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        losses = {
            "boundary": net(torch.zeros(1, 1, dtype=torch.float64)).square().mean(),
            "residual": (slope - x.cos()).square().mean(),
            "data": (u - x.sin()).square().mean(),
        }
        found = [
            torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True, materialize_grads=True)
            for loss in losses.values()
        ]
        rows = np.stack([torch.cat([g.flatten() for g in row]).numpy() for row in found])
        assert rows[1, -1] == 0
        assert rows[0, -1] != 0
        for i in (0, 2):
            expected[i] = 0.7 * expected[i] + 0.3 * np.abs(rows[1]).max() / np.abs(rows[i]).mean()
        opt.zero_grad()
        seen = opt.backward(losses)
        np.testing.assert_allclose(seen.weights, expected, rtol=1e-12)
        direction = torch.cat([p.grad.flatten() for p in params]).numpy()
        np.testing.assert_allclose(direction, expected @ rows, rtol=1e-10, atol=1e-12 * np.abs(rows).max())
        opt.step()


@pytest.mark.parametrize("rule", [PINNAnnealing(), PINNNormAnnealing()])
def test_where_the_residual_has_no_gradient_the_others_are_trained_as_before(rule):
    rows = np.array([[0.5, 1.0], [0.0, 0.0], [0.25, 3.0]])
    entries = np.abs(rows)
    signals = {"max_abs": entries.max(1), "mean_abs": entries.mean(1)} if isinstance(rule, PINNAnnealing) else {}
    weights, _ = rule.update(rows @ rows.T, rule.init(np.eye(3)), names=NAMES, **signals)
    np.testing.assert_array_equal(weights, [1, 0, 1])


def test_norm_weights_are_a_moving_average_from_one():
    rule = PINNNormAnnealing(alpha=0.25)
    state, expected = rule.init(np.eye(3)), np.ones(3)
    for norms in ([1.0, 10.0, 100.0], [2.0, 4.0, 8.0], [1e-4, 1e4, 1.0]):
        norms = np.array(norms)
        expected = 0.75 * expected + 0.25 * norms[1] / norms
        weights, state = rule.update(np.diag(norms**2), state, names=NAMES)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)
        assert weights[1] == 1


def test_averages_wait_for_gradients():
    rule = PINNNormAnnealing(alpha=0.5)
    _, state = rule.update(np.diag([1.0, 9.0, 4.0]), rule.init(np.eye(3)), names=NAMES)
    weights, after = rule.update(np.diag([0.0, 9.0, 4.0]), state, names=NAMES)
    assert weights[0] == 0
    assert after["weights"][0] == state["weights"][0]
    weights, after = rule.update(np.diag([1.0, 0.0, 4.0]), state, names=NAMES)
    np.testing.assert_array_equal(after["weights"], state["weights"])
    np.testing.assert_array_equal(weights, state["weights"] * [1, 0, 1])


def test_errors():
    with pytest.raises(ValueError, match=r"PINNAnnealing needs the loss 'pde'; this step has \['a'\]"):
        PINNAnnealing("pde").update(
            np.eye(1), {"weights": np.ones(1)}, names=("a",), max_abs=np.ones(1), mean_abs=np.ones(1)
        )
    with pytest.raises(ValueError, match=r"PINNAnnealing needs alpha in \(0, 1\]; got 2"):
        PINNAnnealing(alpha=2)
    with pytest.raises(ValueError, match="PINNNormAnnealing needs the loss 'pde'"):
        PINNNormAnnealing("pde").update(np.eye(1), {"weights": np.ones(1)}, names=("a",))
