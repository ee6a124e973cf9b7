"""How a Gram matrix of losses by sample is held to that of rows."""

import torch

from gradweight.gradients.autograd import by_autograd
from gradweight.gradients.sample_layers import layers_by_sample
from gradweight.gradients.streamed import streamed_gram
from gradweight.linalg.gram import gram

N = 3
"""Samples; many dimensions are as large, so that one is not told from another by its size."""


def formed(losses, params):
    """How many parameters' gradients are not formed, once the matrix has been found to be that of rows."""
    values = list(losses.unbind())
    expected = gram(list(by_autograd(values, params, [True] * len(values))))
    found = streamed_gram({str(i): loss for i, loss in enumerate(values)}, params, None)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12 * expected.abs().max().item())
    layers = layers_by_sample(values, params)
    return 0 if layers is None else len(layers.weights) + len(layers.biases)
