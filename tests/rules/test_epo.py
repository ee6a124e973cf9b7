"""EPO: the direction against its definition, and where it leads."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from gradweight import MultiObjectiveGradient
from gradweight.rules import EPO


def imbalance(losses):
    share = losses / losses.sum()
    return (share * np.log(len(share) * share)).sum()


def test_is_the_projection_on_the_cone_and_lowers_the_imbalance():
    rng = np.random.default_rng(0)
    lowered = 0
    for _ in range(30):
        rows, losses, r = rng.standard_normal((4, 6)), rng.uniform(0.1, 3, 4), rng.uniform(0.2, 2, 4)
        names = tuple("abcd")
        weights = EPO(dict(zip(names, r, strict=True)))(rows @ rows.T, names=names, losses=losses)
        slope = np.array([(imbalance(r * (losses + e)) - imbalance(r * (losses - e))) / 2e-6 for e in 1e-6 * np.eye(4)])
        # the derivative of the imbalance by the losses is a, up to a factor
        a = slope / np.abs(slope).sum()
        projected = rows.T @ nnls(rows.T, rows.T @ a)[0]
        if rows[np.argmax(r * losses)] @ projected > 1e-6 * np.linalg.norm(projected) > 0:
            # central differences
            np.testing.assert_allclose(rows.T @ weights, projected, rtol=1e-6, atol=1e-8)
            lowered += 1
            assert slope @ rows @ projected > 0
        else:
            assert (rows @ rows.T @ weights).min() > -1e-9
    assert lowered > 10


@pytest.mark.parametrize(("preference", "start"), [((1, 1), (0.0, 0.0)), ((1, 4), (-1.0, 2.0)), ((1, 20), (0.9, 0.1))])
def test_leads_to_the_chosen_point_of_a_concave_front(preference, start):
    w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    opt = MultiObjectiveGradient(
        torch.optim.SGD([w], lr=0.2), EPO({"a": preference[0], "b": preference[1]}, tolerance=1e-6)
    )
    for _ in range(400):
        opt.zero_grad()
        seen = opt.backward({n: 1 - torch.exp(-(w - c).square().sum() / 2) for n, c in zip("ab", centres, strict=True)})
        opt.step()
    weighted = seen.losses * torch.tensor(preference)
    assert weighted.max() / weighted.min() < 1.02
    along = centres[1] - centres[0]
    beside = w.detach() - centres[0]
    # on the line between the two minima, which is the front
    assert (beside - (beside @ along) / (along @ along) * along).norm() < 1e-3


def test_negative_losses_and_errors():
    assert np.isnan(EPO()(np.eye(2), losses=np.array([1.0, -1.0]))).all()
    with pytest.raises(ValueError, match="EPO needs preferences >= 0 and finite; got -1"):
        EPO({"a": -1.0})
    with pytest.raises(ValueError, match="EPO needs tolerance > 0"):
        EPO(tolerance=0)
