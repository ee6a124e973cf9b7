"""The AdvAs penalty: its closed form, what it may be given, its place in a generator's step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.gan import Alpha, Hinge, Vanilla, advas_penalty
from gradweight.rules import AdvAs

from .adversary import penalised


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_closed_form(seed, n):
    # L = w.m + |w|^2 m.m / 2 with m the mean sample: gradient m + (m.m) w
    random = torch.Generator().manual_seed(seed)
    fake = torch.randn(n, 3, dtype=torch.float64, generator=random, requires_grad=True)
    w = torch.randn(3, dtype=torch.float64, generator=random)

    def adversary_loss(phi):
        m = fake.mean(0)
        return phi["w"] @ m + phi["w"].square().sum() * m.square().sum() / 2

    m = fake.mean(0)
    expected = (m + m.square().sum() * w).square().sum()
    expected_gradient = torch.autograd.grad(expected, fake, retain_graph=True)[0]
    for engine in ("autograd", "func"):
        r = advas_penalty(adversary_loss, {"w": w}, engine=engine)
        assert r.shape == ()
        torch.testing.assert_close(r, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad(r, fake)[0], expected_gradient, rtol=1e-11, atol=1e-13)


def test_the_hinge_without_truncation_sees_samples_that_the_truncated_one_does_not():
    fake = torch.full((4, 1), -3.0, requires_grad=True)  # beyond the margin of the critic x -> x
    real = torch.full((4, 1), 2.0)
    r = {
        truncated: advas_penalty(
            lambda phi, t=truncated: sum(Hinge(t).discriminator(real @ phi["w"], fake @ phi["w"]).values()),
            {"w": torch.ones(1, 1)},
        )
        for truncated in (True, False)
    }
    assert r[True] == 0
    assert r[False] == 25  # |mean fake - mean real|^2


def test_frozen_parameters_buffers_and_parameters_beside_the_loss():
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.BatchNorm1d(4), nn.Linear(4, 1))
    fake = torch.randn(5, 3, requires_grad=True)

    def r():
        phi = dict(net.named_parameters()) | {"unused": torch.ones(2)}
        return advas_penalty(lambda p: functional_call(net, {n: p[n] for n in p if n != "unused"}, (fake,)).mean(), phi)

    net.train()
    r()  # writes to the layers' buffers
    net.eval()
    thawed = r()
    net.requires_grad_(False)
    torch.testing.assert_close(r(), thawed, rtol=0, atol=0)
    assert torch.autograd.grad(r(), fake)[0].any()
    assert all(p.grad is None for p in net.parameters())


def test_its_value_can_be_looked_at_without_a_graph():
    fake = torch.randn(5, 3)
    with torch.no_grad():
        r = advas_penalty(lambda phi: (fake @ phi["w"]).mean(), {"w": torch.zeros(3)})
    assert not r.requires_grad
    torch.testing.assert_close(r, fake.mean(0).square().sum())


def test_half_precision_is_squared_in_single():
    r = advas_penalty(lambda phi: 300 * phi["w"].sum(), {"w": torch.zeros(2, dtype=torch.float16)})
    assert r.dtype == torch.float32
    assert r.item() == 180000  # beyond float16


def test_an_ensemble_under_vmap_has_the_penalties_of_its_members():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)).double()
    real, fake = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 3).double()
    phi = {name: torch.randn(2, *p.shape).double() for name, p in net.named_parameters()}

    def r(phi, fake, real, engine):
        def adversary_loss(p):
            terms = Alpha(0.5, 1.0).discriminator(functional_call(net, p, (real,)), functional_call(net, p, (fake,)))
            return terms["real"] + terms["fake"]

        return advas_penalty(adversary_loss, phi, engine=engine)

    together = torch.vmap(torch.func.grad_and_value(lambda f, p, x: r(p, f, x, "func")))(fake, phi, real)
    for i in range(2):
        alone = fake[i].clone().requires_grad_()
        value = r({name: p[i] for name, p in phi.items()}, alone, real[i], "autograd")
        torch.testing.assert_close(together[1][i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(together[0][i], torch.autograd.grad(value, alone)[0], rtol=1e-11, atol=1e-14)


def test_as_a_loss_of_the_generator_under_its_rule():
    generator, net = nn.Linear(2, 3).double(), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    opt = MultiObjectiveGradient(torch.optim.SGD(generator.parameters(), 0.1), AdvAs())
    z, real = torch.randn(6, 2).double(), torch.randn(6, 3).double()

    def terms():
        fake = generator(z)
        adversary_loss = penalised(net, real, Vanilla())
        phi = dict(net.named_parameters())
        return Vanilla().generator(net(fake)) | {"advas": 50 * advas_penalty(lambda p: adversary_loss(fake, p), phi)}

    seen = opt.backward(terms())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(term, list(generator.parameters()), retain_graph=True)])
        for term in terms().values()
    ]
    weight = min(1.0, (rows[0].norm() / rows[1].norm()).item())
    assert weight < 1  # Eq. 11 at work
    assert seen.weights.tolist() == pytest.approx([1, weight], rel=1e-12)
    direction = torch.cat([p.grad.flatten() for p in generator.parameters()])
    torch.testing.assert_close(direction, rows[0] + weight * rows[1], rtol=1e-10, atol=1e-14)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("engine", ["autograd", "func"])
def test_a_loss_that_does_not_use_phi(engine):
    net = nn.Linear(2, 1)
    x = torch.randn(3, 2)
    frozen = {name: p.detach() for name, p in net.named_parameters()}
    with pytest.raises(
        ValueError, match=r"must depend on phi; it reaches none of \['weight', 'bias'\].*functional_call"
    ):
        advas_penalty(lambda phi: net(x).mean(), frozen, engine=engine)
    with pytest.raises(
        ValueError, match=r"must depend on phi; it reaches none of \['weight', 'bias'\].*functional_call"
    ):
        advas_penalty(lambda phi: x.mean(), frozen, engine=engine)


@pytest.mark.parametrize("engine", ["autograd", "func"])
def test_a_loss_that_is_not_scalar(engine):
    with pytest.raises(ValueError, match=r"the adversary's loss must be a scalar; got shape \(3,\)"):
        advas_penalty(lambda phi: 2 * phi["w"], {"w": torch.zeros(3)}, engine=engine)


def test_other_bad_use():
    phi = {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match="engine must be 'autograd' or 'func'; got 'hooks'"):
        advas_penalty(lambda phi: phi["w"].sum(), phi, engine="hooks")
