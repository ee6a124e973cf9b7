"""Our rules held against TorchJD's weightings: equal where both are right, and where they are not.

What differs, and why (measured below; `docs/rules.md` has the numbers):

- **ill-scaled Gram matrices**: the peer adds 1e-4 to the diagonal of the Gram matrix divided by its trace. A gradient
  thirty times shorter than the longest then drowns in the regularisation, and UPGrad and DualProj return directions
  that conflict with it.
- **tiny gradients**: a Gram matrix with a trace below 1e-4 is replaced by zeros, so that UPGrad and DualProj become
  the plain mean.
- **zero rows**: they keep weight 1/m and shrink the rest; MGDA puts all of the weight there, and training stops.
- **Frank and Wolfe's iterations** for MGDA stop at two or three digits.
- **Krum**'s scores are sums of squared distances in the paper and here, of distances in the peer.
- **Learned weights**: the peer's Uncertainty and IMTL-L train parameters with the model's optimizer, ours have none;
  so only the fixed scalarisations are compared.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradweight.rules import (
    CRMOGM,
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GeometricMean,
    GradDrop,
    GradVac,
    Krum,
    Mean,
    MoDo,
    NashMTL,
    PCGrad,
    SDMGrad,
    SmoothTchebycheff,
    Sum,
    TrimmedMean,
    UPGrad,
    from_torchjd,
)

peer = pytest.importorskip("torchjd.aggregation")


def gradients(seed, m=3, ratio=1.0):
    """(m, m + 2), in general position, with norms from 1 down to 1/ratio."""
    rows = np.random.default_rng(seed).standard_normal((m, m + 2))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.geomspace(1, 1 / ratio, m)[:, None]


def distance(one, other):
    return np.linalg.norm(one - other) / max(np.linalg.norm(one), np.linalg.norm(other))


def worst_cosine(rows, weights):
    direction = rows.T @ weights
    return (rows @ direction / np.linalg.norm(rows, axis=1)).min() / np.linalg.norm(direction)


# ---- equal where both are right


def exact(weighting):
    """The peer's own solver without the regularisation that this well-conditioned problem does not need."""
    return weighting(projector=peer_projector(reg_eps=1e-12))


def peer_projector(**kwargs):
    return pytest.importorskip("torchjd.linalg").QuadprogProjector(**kwargs)


@pytest.mark.parametrize("m", [2, 3, 6])
@pytest.mark.parametrize(("ours", "theirs"), [(UPGrad(), "UPGradWeighting"), (DualProj(), "DualProjWeighting")])
def test_projections_agree(ours, theirs, m):
    pytest.importorskip("quadprog")
    for seed in range(20):
        rows = gradients(seed, m)
        gram = rows @ rows.T
        expected = from_torchjd(exact(getattr(peer, theirs)))(gram)
        # 1e-12 of regularisation against squared cosines that can be as small as 1e-5
        assert distance(rows.T @ ours(gram), rows.T @ expected) < 1e-7


def test_mgda_agrees_with_many_iterations():
    for seed in range(5):
        rows = gradients(seed)
        gram = rows @ rows.T
        theirs = from_torchjd(peer.MGDAWeighting(epsilon=1e-12, max_iters=20_000))(gram)
        # the iteration is not yet closer than this; the shorter of two vectors in the hull is the better answer
        assert distance(rows.T @ MGDA()(gram), rows.T @ theirs) < 1e-3
        assert np.linalg.norm(rows.T @ MGDA()(gram)) <= np.linalg.norm(rows.T @ theirs) * (1 + 1e-12)


def test_fairgrad_agrees():
    pytest.importorskip("scipy")
    for seed in range(10):
        rows = gradients(seed, ratio=10.0)
        theirs = from_torchjd(peer.FairGradWeighting(alpha=1.0))(rows @ rows.T)
        # their solver stops at 1e-8 of the residual
        assert distance(rows.T @ FairGrad(1.0)(rows @ rows.T), rows.T @ theirs) < 1e-5


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("m", [2, 3])
def test_fairgrad_agrees_at_other_alphas(alpha, m):
    pytest.importorskip("scipy")
    for seed in range(5):
        # without conflicts: their solver starts from weights of 1 and stops in between where one has far to go
        rows = gradients(seed, m) + 1
        theirs = from_torchjd(peer.FairGradWeighting(alpha=alpha))(rows @ rows.T)
        assert distance(rows.T @ FairGrad(alpha)(rows @ rows.T), rows.T @ theirs) < 1e-5


def test_sdmgrad_and_modo_agree():
    """Both from the products of two batches' gradients. Theirs adds 1e-8 to the squared scale."""
    rng = np.random.default_rng(0)
    pairs = [
        (SDMGrad(lr=0.3), peer.SDMGradWeighting(lr=0.3)),
        (MoDo(gamma=0.1, rho=0.2), peer.MoDoWeighting(gamma=0.1, rho=0.2)),
    ]
    for ours, theirs in pairs:
        state = ours.init(np.eye(4))
        for step in range(5):
            rows = gradients(step, m=4, ratio=3.0)
            # the diagonal that the scale is taken from is that of one batch here, of the products there
            cross = rows @ (rows + 0.1 * rng.standard_normal(rows.shape)).T
            np.fill_diagonal(cross, np.sum(rows**2, axis=1))
            weights, state = ours.update(rows @ rows.T, state, cross=cross)
            np.testing.assert_allclose(weights, theirs(torch.tensor(cross)).numpy(), rtol=1e-6, atol=1e-7)


def test_graddrop_agrees_on_what_may_be_kept():
    """In each coordinate the sum of the positive or of the negative entries, either as often there as here."""
    rows = gradients(0, m=4)
    kept = np.stack([np.clip(rows, None, 0).sum(axis=0), np.clip(rows, 0, None).sum(axis=0)])
    torch.manual_seed(0)
    often = []
    for directions in (
        np.stack([GradDrop(seed=seed).combine(rows, step=seed) for seed in range(300)]),
        np.stack([peer.GradDrop()(torch.tensor(rows)).numpy() for _ in range(300)]),
    ):
        chosen = np.isclose(directions[:, None, :], kept)
        assert chosen.any(axis=1).all()
        often.append(chosen[:, 1].mean(axis=0))
    # a difference of two frequencies of 300 draws has a standard deviation of at most 0.041
    np.testing.assert_allclose(often[0], often[1], atol=0.2)


def test_fixed_weights_and_scalarisations_agree():
    scalarisation = pytest.importorskip("torchjd.scalarization")
    gram = np.eye(3)
    for ours, theirs in [(Sum(), peer.SumWeighting()), (Mean(), peer.MeanWeighting())]:
        np.testing.assert_allclose(ours(gram), from_torchjd(theirs)(gram))
    losses = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    for ours, theirs in [
        (GeometricMean(), scalarisation.GeometricMean()),
        (SmoothTchebycheff(mu=0.7), scalarisation.STCH(mu=0.7)),
    ]:
        (expected,) = torch.autograd.grad(theirs(losses), losses)
        np.testing.assert_allclose(ours(gram, losses=losses.detach().numpy()), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(IMTLG(), peer.IMTLG()), (AlignedMTL(), peer.AlignedMTL()), (ConFIG(), peer.ConFIG())]
)
def test_closed_forms_agree(ours, theirs, m):
    for seed in range(20):
        rows = gradients(seed, m, ratio=3.0)
        # theirs inverts the Gram matrix or takes its eigenvectors: 1e-10 is what that leaves of double precision
        assert distance(rows.T @ ours(rows @ rows.T), theirs(torch.tensor(rows)).numpy()) < 1e-10


@pytest.mark.filterwarnings("ignore")
def test_programs_of_the_peer_agree():
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    apart = []
    for seed in range(10):
        rows = gradients(seed, ratio=3.0)
        tensor = torch.tensor(rows)
        # an interior-point solver's 1e-8 on the objective is the square root of that in the weights
        assert distance(rows.T @ CAGrad(c=0.5)(rows @ rows.T), peer.CAGrad(c=0.5)(tensor).numpy()) < 1e-3
        ours, theirs = rows.T @ NashMTL()(rows @ rows.T), peer.NashMTL(n_tasks=3)(tensor).numpy()
        # theirs is clipped at length 1; its loop keeps the last weights where a program fails, hence the median
        apart.append(distance(ours / np.linalg.norm(ours), theirs / np.linalg.norm(theirs)))
    assert np.median(apart) < 1e-5


def test_krum_agrees_on_who_is_corrupt():
    for seed in range(20):
        rows = gradients(seed, m=7)
        rows[:2] *= 100
        theirs = from_torchjd(peer.KrumWeighting(n_byzantine=2, n_selected=5))(rows @ rows.T)
        np.testing.assert_allclose(Krum(2, 5)(rows @ rows.T), theirs, rtol=1e-6)


def test_trimmed_mean_agrees():
    rows = gradients(0, m=7)
    theirs = peer.TrimmedMean(trim_number=2)(torch.tensor(rows))
    np.testing.assert_allclose(TrimmedMean(2).combine(rows), theirs.numpy(), rtol=1e-12)


def test_pcgrad_agrees_for_two_losses_and_in_distribution_for_three():
    for seed in range(10):
        gram = (rows := gradients(seed, m=2)) @ rows.T
        np.testing.assert_allclose(PCGrad()(gram, step=seed), from_torchjd(peer.PCGradWeighting())(gram), rtol=1e-9)
    # unit vectors at 0, 130 and 250 degrees: each order of each row gives another direction
    angles = np.deg2rad([0, 130, 250])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gram, theirs = rows @ rows.T, from_torchjd(peer.PCGradWeighting())
    torch.manual_seed(0)
    ours_seen = {tuple(PCGrad()(gram, step=step).round(6)) for step in range(100)}
    theirs_seen = {tuple(theirs(gram).round(6)) for _ in range(100)}
    assert ours_seen == theirs_seen
    assert len(ours_seen) == 8


def test_gradvac_agrees_for_two_losses():
    """With two losses there is one order. Their epsilon of 1e-8 in the denominators is what is left."""
    theirs, ours = from_torchjd(peer.GradVacWeighting(beta=0.3)), GradVac(beta=0.3)
    state = ours.init(np.eye(2))
    for seed in range(10):
        rows = gradients(seed, m=2)
        weights, state = ours.update(rows @ rows.T, state, step=seed)
        np.testing.assert_allclose(weights, theirs(rows @ rows.T), rtol=1e-6)


def test_crmogm_agrees():
    theirs = from_torchjd(peer.CRMOGMWeighting(peer.PCGradWeighting(), alpha=0.7))
    ours, state = CRMOGM(PCGrad(), alpha=0.7), None
    for step in range(5):
        rows = gradients(step, m=2)
        gram = rows @ rows.T
        weights, state = ours.update(gram, ours.init(gram) if state is None else state, step=step)
        np.testing.assert_allclose(weights, theirs(gram), rtol=1e-9)


# ---- different where one is not


@pytest.mark.parametrize(("ours", "theirs"), [(UPGrad(), "UPGradWeighting"), (DualProj(), "DualProjWeighting")])
def test_ill_scaled_gradients(ours, theirs):
    pytest.importorskip("quadprog")
    weighting = from_torchjd(getattr(peer, theirs)())
    conflicts = 0
    for seed in range(30):
        rows = gradients(seed, ratio=1000.0)
        assert worst_cosine(rows, ours(rows @ rows.T)) >= -1e-6
        conflicts += worst_cosine(rows, weighting(rows @ rows.T)) < -1e-3
    # the reason for solving on correlations; were it to become 0, the documentation would have to change
    assert conflicts >= 10


@pytest.mark.parametrize(("ours", "theirs"), [(UPGrad(), "UPGradWeighting"), (DualProj(), "DualProjWeighting")])
def test_tiny_gradients(ours, theirs):
    pytest.importorskip("quadprog")
    rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    expected = ours(rows @ rows.T)
    np.testing.assert_allclose(ours(1e-60 * rows @ rows.T), expected, rtol=1e-12)
    np.testing.assert_array_equal(from_torchjd(getattr(peer, theirs)())(1e-6 * rows @ rows.T), [0.5, 0.5])
    assert distance(expected, np.array([0.5, 0.5])) > 0.1


def test_zero_rows():
    pytest.importorskip("quadprog")
    gram = np.diag([1.0, 0.0, 4.0])
    np.testing.assert_allclose(UPGrad()(gram), [1 / 2, 0, 1 / 2])
    np.testing.assert_allclose(from_torchjd(peer.UPGradWeighting())(gram), [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(MGDA()(gram), [0.8, 0, 0.2])
    np.testing.assert_allclose(from_torchjd(peer.MGDAWeighting())(gram), [0, 1, 0], atol=1e-6)


def test_krum_scores_are_squared():
    """The two nearest of 0 are at 2.2 and -2.2 (squares 9.7, sum 4.4), of 50.1 at 50 and 54.2 (16.8, but 4.2)."""
    points = np.array([0.0, 2.2, -2.2, 50.0, 50.1, 54.2])[:, None]
    rows = np.concatenate([points, 1e-3 * np.eye(6)], axis=1)
    ours = Krum(byzantine=2)(rows @ rows.T)
    theirs = from_torchjd(peer.KrumWeighting(n_byzantine=2))(rows @ rows.T)
    assert ours[0] == 1
    assert theirs[4] == 1
