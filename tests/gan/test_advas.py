"""The AdvAs penalty against closed forms, finite differences and its expectation."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.gan import (
    Alpha,
    Hinge,
    Relativistic,
    Vanilla,
    Wasserstein,
    advas_penalty,
    advas_penalty_half_batches,
    advas_penalty_unbiased,
    gradient_penalty,
    r1_penalty,
)
from gradweight.graph import Graph
from gradweight.rules import AdvAs, Sum

CHANNELS, LENGTH = 4, 5


def adversary(norm):
    return nn.Sequential(
        nn.Conv1d(2, CHANNELS, 3, padding=1), norm, nn.Softplus(), nn.Flatten(), nn.Linear(CHANNELS * LENGTH, 1)
    ).double()


def samples(n=3):
    return torch.randn(n, 2, LENGTH, dtype=torch.float64)


def penalised(net, real, loss=None, penalty=None):
    """The adversary's loss as a function of the fake samples and phi."""
    loss = loss or Wasserstein()

    def adversary_loss(fake, phi):
        def critic(x):
            return functional_call(net, phi, (x,))

        total = sum(loss.discriminator(critic(real), critic(fake)).values())
        if penalty == "gradient_penalty":
            total = total + 10 * gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(0))
        if penalty == "r1_penalty":
            x = real.detach().requires_grad_()
            total = total + 5 * r1_penalty(critic(x), x)
        return total

    return adversary_loss


def ratio_to_finite_differences(r, fake):
    """The derivative of r by the fake samples along some direction, over what central differences give."""
    direction, step = torch.randn_like(fake), 1e-5
    x = fake.detach().requires_grad_()
    analytic = (torch.autograd.grad(r(x), x)[0] * direction).sum()
    ahead, behind = (r((fake + sign * step * direction).detach().requires_grad_()).detach() for sign in (1, -1))
    return (analytic / ((ahead - behind) / (2 * step))).item()


WRONG = [
    nn.InstanceNorm1d(CHANNELS),
    nn.InstanceNorm1d(CHANNELS, affine=True),
    nn.LayerNorm([CHANNELS, LENGTH]),
    nn.BatchNorm1d(CHANNELS),
    nn.BatchNorm1d(CHANNELS, track_running_stats=False).eval(),
]
RIGHT = [
    nn.Identity(),
    nn.GroupNorm(CHANNELS, CHANNELS),
    nn.GroupNorm(1, CHANNELS),
    nn.RMSNorm([CHANNELS, LENGTH]),
    nn.BatchNorm1d(CHANNELS).eval(),
    nn.InstanceNorm1d(CHANNELS, track_running_stats=True).eval(),
]


# ---- the penalty


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


@pytest.mark.parametrize("norm", WRONG + RIGHT, ids=str)
@pytest.mark.parametrize("loss", [Wasserstein(), Vanilla(), Alpha(0.5, 1.0), Relativistic(), Hinge(truncated=False)])
def test_second_derivatives(norm, loss):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, loss)
    phi = dict(net.named_parameters())
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


@pytest.mark.parametrize("norm", RIGHT, ids=str)
def test_third_derivatives(norm):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, penalty="gradient_penalty")
    phi = dict(net.named_parameters())
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


@pytest.mark.parametrize("norm", WRONG, ids=str)
def test_third_derivatives_that_torch_gets_wrong_are_refused(norm):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, penalty="gradient_penalty")
    phi = dict(net.named_parameters())
    remedy = r"GroupNorm\(1, C\)" if isinstance(norm, nn.LayerNorm) else r"GroupNorm\(C, C\)"
    with pytest.raises(NotImplementedError, match=rf"here in \['1: {re.escape(str(norm))}'\].*{remedy}"):
        advas_penalty(lambda p: adversary_loss(fake, p), phi)
    with pytest.raises(NotImplementedError, match=rf"here in \['1: {re.escape(str(norm))}'\].*{remedy}"):
        advas_penalty_half_batches(lambda p, f, r: penalised(net, r, penalty="gradient_penalty")(f, p), phi, fake, fake)
    # the day that this fails, torch is right and the check can go
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi, check=False), fake)
    assert abs(ratio - 1) > 0.01


def test_refused_at_a_func_level_too():
    net, fake = adversary(nn.InstanceNorm1d(CHANNELS)), samples()

    def adversary_loss(phi):
        def critic(x):
            return functional_call(net, phi, (x,))

        return critic(fake).mean() + torch.func.grad(lambda x: critic(x).sum())(fake).square().mean()

    with pytest.raises(NotImplementedError, match="here in \\['1: InstanceNorm1d"):
        advas_penalty(adversary_loss, dict(net.named_parameters()), engine="func")
    with pytest.raises(NotImplementedError, match="here in \\['1: InstanceNorm1d"):
        advas_penalty_unbiased(
            lambda phi, f, r: torch.func.grad(lambda x: functional_call(net, phi, (x[None],)).sum())(f).square().sum(),
            dict(net.named_parameters()),
            fake,
            fake,
        )


def test_a_functional_layer_is_refused_without_a_name():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def adversary_loss(phi):
        out = nn.functional.layer_norm(x @ phi["w"], (4,)).sigmoid().sum()
        return torch.autograd.grad(out, x, create_graph=True)[0].square().sum()

    with pytest.raises(NotImplementedError, match=r"gradient penalty through LayerNorm\. The penalty's place"):
        advas_penalty(adversary_loss, {"w": torch.eye(4).double()})


@pytest.mark.parametrize("norm", WRONG, ids=str)
def test_r1_on_real_samples_is_right_in_a_generator_step(norm):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, penalty="r1_penalty")
    phi = dict(net.named_parameters())
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi, check=False), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


def test_the_remedies_are_the_layers_that_they_replace():
    x = torch.randn(3, CHANNELS, LENGTH, dtype=torch.float64)
    same = nn.GroupNorm(CHANNELS, CHANNELS).double()(x)
    torch.testing.assert_close(nn.InstanceNorm1d(CHANNELS).double()(x), same, rtol=1e-12, atol=1e-14)
    same = nn.GroupNorm(1, CHANNELS).double()(x)
    torch.testing.assert_close(nn.LayerNorm([CHANNELS, LENGTH]).double()(x), same, rtol=1e-12, atol=1e-14)


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


# ---- terms that have been computed


def gan(norm):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 2 * LENGTH), nn.Unflatten(1, (2, LENGTH)), nn.Tanh()).double()
    return generator, adversary(norm), torch.randn(4, 3).double(), samples(4)


def forms(net, real, fake, logits, loss):
    """What `advas_penalty` takes for one and the same adversary's loss, by name."""
    terms = loss.discriminator(net(real), logits)
    return {
        "function": lambda phi: penalised(net, real, loss)(fake, phi),
        "tensor": terms["real"] + terms["fake"],
        "terms": terms,
    }


@pytest.mark.parametrize("form", ["function", "tensor", "terms"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("norm", [*WRONG, nn.GroupNorm(2, CHANNELS), nn.BatchNorm1d(CHANNELS).eval()], ids=str)
@pytest.mark.parametrize("loss", [Wasserstein(), Vanilla(), Relativistic()])
def test_every_form_is_the_plain_double_backward(form, shared, norm, loss):
    generator, net, z, real = gan(norm)
    theta, phi = list(generator.parameters()), dict(net.named_parameters())

    fake = generator(z)
    logits = net(fake)
    adversary_loss = sum(loss.discriminator(net(real), logits).values())
    r = sum(g.square().sum() for g in torch.autograd.grad(adversary_loss, list(phi.values()), create_graph=True))
    own = sum(loss.generator(net(fake), net(real)).values())
    expected = torch.autograd.grad(own + r, theta)

    opt = MultiObjectiveGradient(torch.optim.SGD(theta, 0.1), Sum())
    fake = generator(z)
    logits = net(fake)
    found = advas_penalty(forms(net, real, fake, logits, loss)[form], phi)
    terms = {f"own {name}": term for name, term in loss.generator(logits, net(real)).items()}
    opt.backward(terms | {"advas": found}, shared=fake if shared else None)
    torch.testing.assert_close(found, r, rtol=1e-12, atol=0)
    for p, direction in zip(theta, expected, strict=True):
        torch.testing.assert_close(p.grad, direction, rtol=1e-10, atol=1e-13)
    assert all(p.grad is None for p in net.parameters())


def test_at_the_samples_the_rule_weighs_gradients_at_the_samples():
    generator, net, z, real = gan(nn.Identity())
    theta, phi = list(generator.parameters()), dict(net.named_parameters())
    opt = MultiObjectiveGradient(torch.optim.SGD(theta, 0.1), AdvAs())
    fake = generator(z)
    logits = net(fake)
    r = 50 * advas_penalty(Vanilla().discriminator(net(real), logits), phi)
    terms = Vanilla().generator(logits) | {"advas": r}
    at_samples = [torch.autograd.grad(term, fake, retain_graph=True)[0] for term in terms.values()]
    seen = opt.backward(terms, shared=fake)
    weight = (at_samples[0].norm() / at_samples[1].norm()).item()
    assert weight < 1  # Eq. 11 at work
    assert seen.weights.tolist() == pytest.approx([1, weight], rel=1e-12)
    pulled = torch.autograd.grad(generator(z), theta, at_samples[0] + weight * at_samples[1])
    for p, direction in zip(theta, pulled, strict=True):
        torch.testing.assert_close(p.grad, direction, rtol=1e-10, atol=1e-14)


def test_a_term_that_the_samples_do_not_enter_is_differentiated_without_a_graph_and_freed():
    _, net, _, real = gan(nn.BatchNorm1d(CHANNELS))
    fake, phi = samples().requires_grad_(), dict(net.named_parameters())
    terms = Vanilla().discriminator(net(real), net(fake))
    graph = Graph.of(terms["real"]).nodes
    r = advas_penalty(terms, phi)
    assert graph.isdisjoint(Graph.of(r).nodes)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(terms["real"], list(phi.values()))
    terms = Vanilla().discriminator(net(real), net(fake))
    whole = advas_penalty(terms["real"] + terms["fake"], phi)
    assert Graph.of(terms["real"]).nodes & Graph.of(whole).nodes
    torch.autograd.grad(terms["real"], list(phi.values()))


def test_terms_that_share_a_graph_are_differentiated_together():
    _, net, _, real = gan(nn.BatchNorm1d(CHANNELS))
    fake, phi = samples(4).requires_grad_(), dict(net.named_parameters())
    for weight in (lambda: phi["0.weight"], lambda: nn.functional.normalize(phi["0.weight"], dim=(1, 2))):
        w = weight()  # normalised once for both terms

        def critic(x, w=w):
            return functional_call(net, phi | {"0.weight": w}, (x,))

        apart = Vanilla().discriminator(critic(real), critic(fake))
        whole = advas_penalty(apart["real"] + apart["fake"], phi)
        torch.testing.assert_close(advas_penalty(apart, phi), whole, rtol=1e-12, atol=0)
    together = Vanilla().discriminator(*net(torch.cat([real, fake])).split(4))
    whole = advas_penalty(together["real"] + together["fake"], phi)
    r = advas_penalty(together, phi)
    torch.testing.assert_close(r, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, fake, retain_graph=True)[0] for value in (r, whole)), rtol=1e-10, atol=1e-14
    )


def test_terms_that_advas_cannot_differentiate_are_refused():
    net, real, fake = adversary(nn.Identity()), samples(), samples().requires_grad_()
    phi = dict(net.named_parameters())
    terms = Vanilla().discriminator(net(real), net(fake))
    with pytest.raises(TypeError, match='engine="func" needs a function of phi; got a dict'):
        advas_penalty(terms, phi, engine="func")
    with pytest.raises(ValueError, match=r"reaches none of \['w'\]"):
        advas_penalty(terms, {"w": torch.zeros(2, requires_grad=True)})
    with pytest.raises(ValueError, match="the loss 'fake' must be a scalar"):
        advas_penalty({"fake": net(fake)}, phi)
    net[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"\['0.weight'\] do not: leave them out of phi"):
        advas_penalty(terms, phi)
    norm = adversary(nn.InstanceNorm1d(CHANNELS))
    with pytest.raises(NotImplementedError, match="through InstanceNorm or BatchNorm"):
        advas_penalty({"fake": gradient_penalty(norm, real, fake)}, dict(norm.named_parameters()))


# ---- the estimators without bias


def linear_loss(phi, fake, real):
    return (fake @ phi["w"]).mean() - (real @ phi["w"]).mean()


@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_estimators_in_closed_form(seed, n):
    # the gradient of a linear adversary is the difference of the samples
    random = np.random.default_rng(seed)
    fake, real = random.normal(size=(2, n, 3))
    phi = {"w": torch.zeros(3, dtype=torch.float64)}
    g = fake - real
    among_pairs = sum(g[i] @ g[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    appendix_with_a_minus = (g**2).mean(0).sum() - g.var(0, ddof=1).sum()
    f, r = torch.from_numpy(fake), torch.from_numpy(real)
    unbiased = advas_penalty_unbiased(linear_loss, phi, f, r).item()
    assert unbiased == pytest.approx(among_pairs, rel=1e-10, abs=1e-12)
    assert unbiased == pytest.approx(appendix_with_a_minus, rel=1e-10, abs=1e-12)

    half = (n + 1) // 2
    halves = g[:half].mean(0) @ g[half:].mean(0)
    assert advas_penalty_half_batches(linear_loss, phi, f, r).item() == pytest.approx(halves, rel=1e-10, abs=1e-12)
    assert advas_penalty(lambda p: linear_loss(p, f, r), phi).item() == pytest.approx(g.mean(0) @ g.mean(0), rel=1e-10)


def test_expectations_and_the_sign_in_the_papers_appendix():
    """Eight samples, a true value of 3.961, and a variance of 35.4: 8.39 with bias, 74.8 with the sign as printed."""
    n, d, times = 8, 6, 20_000
    true, variance = 3.961, 35.42
    mean, deviation = (true / d) ** 0.5, (variance / d / 2) ** 0.5  # half the variance from either kind of samples
    fake = mean + deviation * torch.randn(times, n, d, dtype=torch.float64)
    real = deviation * torch.randn(times, n, d, dtype=torch.float64)
    phi = {"w": torch.zeros(d, dtype=torch.float64)}

    g = fake - real
    found = {
        "biased": torch.vmap(lambda f, r: advas_penalty(lambda p: linear_loss(p, f, r), phi, engine="func"))(
            fake, real
        ),
        "unbiased": torch.vmap(lambda f, r: advas_penalty_unbiased(linear_loss, phi, f, r))(fake, real),
        "half batches": torch.vmap(lambda f, r: advas_penalty_half_batches(linear_loss, phi, f, r, engine="func"))(
            fake, real
        ),
        "as printed": (g.square().mean(1) + g.var(1)).sum(-1),
    }
    expected = {
        "biased": true + variance / n,
        "unbiased": true,
        "half batches": true,
        "as printed": true + 2 * variance,
    }
    for name, values in found.items():
        error = values.std() / times**0.5
        # a wrong expectation is off by at least 4.4, and 5 standard errors are passed once in two million
        assert error < 0.15, name
        assert abs(values.mean() - expected[name]) < 5 * error, name


@pytest.mark.parametrize("estimator", [advas_penalty_unbiased, advas_penalty_half_batches])
def test_estimators_are_differentiable_to_the_generator(estimator):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    real, fake = torch.randn(4, 3).double(), torch.randn(4, 3).double()

    def loss(phi, f, r):
        f, r = f.reshape(-1, 3), r.reshape(-1, 3)
        return sum(Vanilla().discriminator(functional_call(net, phi, (r,)), functional_call(net, phi, (f,))).values())

    ratio = ratio_to_finite_differences(lambda x: estimator(loss, dict(net.named_parameters()), x, real), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


# ---- errors


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
    with pytest.raises(ValueError, match=r"as many real samples as fake ones, at least 2; got 3 real and 2 fake"):
        advas_penalty_unbiased(linear_loss, phi, torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"as many real samples as fake ones, at least 2; got 1 real and 1 fake"):
        advas_penalty_unbiased(linear_loss, phi, torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="advas_penalty_half_batches needs at least 2 real samples; got 1"):
        advas_penalty_half_batches(linear_loss, phi, torch.zeros(2, 3), torch.zeros(1, 3))
