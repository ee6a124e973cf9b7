"""The AdvAs penalty of terms that have been computed is that of a function, for less."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.gan import Relativistic, Vanilla, Wasserstein, advas_penalty, gradient_penalty
from gradweight.gradients.graph import Graph
from gradweight.rules import AdvAs, Sum

from .adversary import CHANNELS, LENGTH, WRONG, adversary, penalised, samples


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
