"""The networks that the benchmarks train, small enough to read and large enough to be what people use."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


def mlp(width: int, depth: int, inputs: int = 2, outputs: int = 1) -> nn.Sequential:
    """A plain perceptron with LeakyReLU, the discriminator of the 2-D studies."""
    sizes = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def dcgan_discriminator(width: int = 64, channels: int = 3) -> nn.Sequential:
    """DCGAN's discriminator for 32 x 32 images, with batch norm as the paper has it."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * width, 1, 4),
        nn.Flatten(),
    )


class _Block(nn.Module):
    """A residual block of SN-GAN's discriminator."""

    def __init__(self, inputs: int, outputs: int, downsample: bool) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.second = spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, outputs, 1))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(F.relu(x)))) + self.shortcut(x)
        return F.avg_pool2d(y, 2) if self.downsample else y


class SNGANDiscriminator(nn.Module):
    """SN-GAN's residual discriminator for 32 x 32 images (Miyato et al., ICLR 2018, table 4)."""

    def __init__(self, width: int = 128, channels: int = 3) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _Block(channels, width, downsample=True),
            _Block(width, width, downsample=True),
            _Block(width, width, downsample=False),
            _Block(width, width, downsample=False),
        )
        self.score = spectral_norm(nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, 1)."""
        return self.score(F.relu(self.blocks(x)).sum((2, 3)))
