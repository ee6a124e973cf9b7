"""Gram matrices of losses by sample without a gradient of linear layers: exact, whatever the layers are used for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradweight.gradients.autograd import by_autograd
from gradweight.gradients.sample_layers import layers_by_sample
from gradweight.gradients.streamed import streamed_gram
from gradweight.linalg.gram import gram

from .sample_matrices import N, formed

pytestmark = pytest.mark.usefixtures("double")


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class ByHand(Attention):
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + self.out(((q @ k.mT) / 2).softmax(-1) @ v)


def classes(out):
    return F.cross_entropy(out, torch.arange(N) % out.shape[1], reduction="none")


def perceptron():
    net = nn.Sequential(nn.Linear(N, N), nn.Tanh(), nn.Linear(N, N, bias=False), nn.ReLU(), nn.Linear(N, 2))
    return net, classes(net(torch.randn(N, N))), 5


def no_bias_trained():
    net = nn.Sequential(nn.Linear(N, 4), nn.GELU(), nn.Linear(4, 1))
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    return net, F.mse_loss(net(torch.randn(N, N)).squeeze(1), torch.randn(N), reduction="none"), 2


@pytest.mark.parametrize("kind", [Attention, ByHand])
def tokens(kind=Attention):
    net = nn.Sequential(nn.Linear(2, 4), kind(4, 2), nn.LayerNorm(4), nn.Linear(4, 5))
    out = net(torch.randn(N, 6, 2))
    loss = F.cross_entropy(out.flatten(0, 1), torch.arange(N * 6) % 5, reduction="none").view(N, 6).mean(1)
    return net, loss, 7  # all but those of the norm


def tokens_by_hand():
    return tokens(ByHand)


def long_rows():
    """So many tokens that gradients of slices are formed instead."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    return net, net(torch.randn(N, 40, 2)).square().mean((1, 2)), 4


def image():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    return net, net(torch.randn(N, 1, 6, 6)).exp().sum(1), 2


def twice():
    """As it is and transposed, and one bias for two layers."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(N, N)), nn.Parameter(torch.randn(N))

        def forward(self, x):
            return F.linear(F.linear(x, self.w, self.b).tanh(), self.w.mT.mT.T, self.b).sin() @ self.w

    net = Tied()
    return net, net(torch.randn(N, N)).square().sum(1), 2


@pytest.mark.parametrize(
    "problem", [perceptron, no_bias_trained, tokens, tokens_by_hand, long_rows, image, twice], ids=lambda p: p.__name__
)
def test_layers(problem):
    net, losses, number = problem()
    assert formed(losses, [p for p in net.parameters() if p.requires_grad]) == number


def behind_batch_norm():
    """What comes after it keeps samples apart."""
    net = nn.Sequential(nn.Linear(N, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return net, net(torch.randn(N, N)).square().mean(1), 2


def penalised():
    """A weight that every sample's loss has a term of, beside the layer."""
    net = nn.Sequential(nn.Linear(N, 4), nn.Tanh(), nn.Linear(4, 1))
    return net, net(torch.randn(N, N)).square().mean(1) + net[0].weight.square().sum(), 3


def contrastive():
    net = nn.Linear(2, 2)
    out = net(torch.randn(N, 2))
    return net, F.cross_entropy(out @ out.T, torch.arange(N), reduction="none"), 0


def generated():
    """A weight that is a product of a parameter."""
    net = nn.Linear(N, N)
    return net, (torch.randn(N, N) @ (torch.randn(N, N) @ net.weight)).sin().sum(1) + net.bias.sum(), 0


def from_the_left():
    net = nn.Linear(N, N, bias=False)
    return net, (net.weight @ torch.randn(N, N)).square().sum(1), 0


def broadcast_bias():
    net = nn.ParameterDict({"w": nn.Parameter(torch.randn(N, 2)), "b": nn.Parameter(torch.randn(1))})
    return net, torch.addmm(net["b"], torch.randn(N, N), net["w"]).square().sum(1), 1


def weighted_product():
    net = nn.ParameterDict({"w": nn.Parameter(torch.randn(N, 2)), "b": nn.Parameter(torch.randn(2))})
    return net, torch.addmm(net["b"], torch.randn(N, N), net["w"], alpha=2).square().sum(1), 0


def with_a_hook():
    net = nn.Sequential(nn.Linear(N, 4), nn.Linear(4, 1))
    net[0].weight.register_hook(lambda g: g.clamp(-0.1, 0.1))
    return net, net(torch.randn(N, N)).square().mean(1), 3


def checkpointed():
    net = nn.Sequential(nn.Linear(N, 4), nn.Linear(4, 1))
    hidden = checkpoint(net[0], torch.randn(N, N), use_reentrant=False)
    return net, net[1](hidden.tanh()).square().mean(1), 3  # the bias needs no input


def reversed_samples():
    net = nn.Linear(N, 1)
    return net, net(torch.randn(N, N)).square().mean(1).flip(0), 0


class Relu(torch.autograd.Function):
    """Another thing of that name: the mean over the samples goes out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x - x.mean(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        return

    @staticmethod
    def backward(ctx, gradient):
        return gradient - gradient.mean(0)


class Mean(Relu):
    """Named as what has dimensions."""


def functions_in_python(kind=Relu):
    net = nn.Sequential(nn.Linear(N, N), nn.Linear(N, 1))
    return net, net[1](kind.apply(net[0](torch.randn(N, N)))).square().sum(1), 2


def functions_named_otherwise():
    return functions_in_python(Mean)


def real_weights_of_complex_numbers():
    net = nn.ParameterDict({"w": nn.Parameter(torch.randn(N, 2)), "b": nn.Parameter(torch.randn(2))})
    x = torch.randn(N, N, dtype=torch.complex128)
    return net, torch.addmm(net["b"].to(x.dtype), x, net["w"].to(x.dtype)).abs().square().sum(1), 0


def samples_in_the_second_place():
    net = nn.Linear(2, 1)
    return net, net(torch.randn(4, N, 2)).square().mean((0, 2)), 0


@pytest.mark.parametrize(
    "problem",
    [
        behind_batch_norm, penalised, contrastive, generated, from_the_left, broadcast_bias, weighted_product,
        with_a_hook, checkpointed, reversed_samples, samples_in_the_second_place, functions_in_python,
        functions_named_otherwise, real_weights_of_complex_numbers,
    ],
    ids=lambda p: p.__name__,
)  # fmt: skip
def test_what_is_formed_all_the_same(problem):
    net, losses, number = problem()
    assert formed(losses, list(net.parameters())) == number


def test_only_a_whole_vector_in_order():
    net = nn.Linear(N, 1)
    values = net(torch.randn(N, N)).square().mean(1).unbind()
    assert layers_by_sample(values, net.parameters()) is not None
    for some in (values[:2], values[::-1], [*values, net.weight.sum()], [net.weight.sum()]):
        assert layers_by_sample(some, net.parameters()) is None


def test_a_scale_and_single_precision():
    net = nn.Linear(N, 1).float()
    values = net(torch.randn(N, N, dtype=torch.float32)).square().mean(1).unbind()
    losses = {str(i): loss for i, loss in enumerate(values)}
    plain = streamed_gram(losses, list(net.parameters()), None)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(streamed_gram(losses, list(net.parameters()), torch.tensor(4.0)), 16 * plain)


def test_weights_that_autocast_has_cast():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).float()
    params, x = list(net.parameters()), torch.randn(6, 8, dtype=torch.float32)
    with torch.autocast("cpu"):
        values = (net(x).float().square().mean(1) + net(x.flip(1)).float().sum(1)).unbind()
    layers = layers_by_sample(values, params)
    assert [len(uses) for uses in (*layers.weights.values(), *layers.biases.values())] == [2, 2, 2, 2]
    expected = gram(list(by_autograd(values, params, [True] * len(values))))
    found = streamed_gram({str(i): loss for i, loss in enumerate(values)}, params, None)
    # rows are rounded to bfloat16, 2**-9, where these products are not
    torch.testing.assert_close(found, expected, rtol=0, atol=2**-8 * expected.abs().max().item())
