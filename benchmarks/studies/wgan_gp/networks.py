"""The networks of AdvAs, appendix E.1, at any width."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["NOISE", "critic", "generator", "networks"]

NOISE = 128


def generator(width: int, pixels: int) -> nn.Module:
    """Noise (n, 128) -> images (n, 1, pixels, pixels) in [0, 1]: a linear layer and three transposed convolutions."""
    start = pixels // 4
    layers: list[nn.Module] = [
        nn.Linear(NOISE, width * start * start),
        nn.Unflatten(1, (width, start, start)),
        nn.ReLU(),
    ]
    for inputs in (width, width // 2):
        outputs = inputs // 2
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.InstanceNorm2d(outputs, affine=True), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width // 4, 1, 3, 1, 1), nn.Sigmoid())


def critic(width: int, pixels: int) -> nn.Module:
    """Images -> scores (n,): three convolutions to width, 2 width and 4 width channels, and a linear layer.

    ``GroupNorm(C, C)`` is instance normalization whose third derivative is right, which the penalty of a critic with a
    gradient penalty needs; see `gradweight.gan.advas_penalty`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GroupNorm(outputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * (pixels // 8) ** 2, 1), _Scalar())


def networks(width: int, pixels: int) -> tuple[nn.Module, nn.Module]:
    """The generator and the critic."""
    return generator(width, pixels), critic(width, pixels)


class _Scalar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]
