"""The networks that the benchmarks train, small enough to read and large enough to be what people use."""

from __future__ import annotations

import itertools

import torch
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


class Block(nn.Module):
    """A residual block of SN-GAN's discriminator.

    The one that sees the images has no ReLU before them, which would take every dark pixel away, and its shortcut
    pools before it convolves.
    """

    def __init__(self, inputs: int, outputs: int, downsample: bool = True, of_images: bool = False) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.second = spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, outputs, 1))
        self.downsample, self.of_images = downsample, of_images

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / 2, w / 2), or h, w without downsampling."""
        if self.of_images:
            return F.avg_pool2d(self.second(F.relu(self.first(x))), 2) + self.shortcut(F.avg_pool2d(x, 2))
        y = self.second(F.relu(self.first(F.relu(x)))) + self.shortcut(x)
        return F.avg_pool2d(y, 2) if self.downsample else y


class SNGANDiscriminator(nn.Module):
    """SN-GAN's residual discriminator for 32 x 32 images (Miyato et al., ICLR 2018, table 4)."""

    def __init__(self, width: int = 128, channels: int = 3) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block(channels, width, of_images=True),
            Block(width, width),
            Block(width, width, downsample=False),
            Block(width, width, downsample=False),
        )
        self.score = spectral_norm(nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, 1)."""
        return self.score(F.relu(self.blocks(x)).sum((2, 3)))


class _Attention(nn.Module):
    """Self-attention over positions (Zhang et al., ICML 2019), as BigGAN has it after its first block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = spectral_norm(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.out = spectral_norm(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).flatten(2).mT for part in (self.query, self.key, self.value))
        seen = (query @ key.mT).softmax(-1) @ value
        return x + self.gain * self.out(seen.mT.unflatten(2, x.shape[2:]))


class BigGANDiscriminator(nn.Module):
    """BigGAN's discriminator for 128 x 128 images without classes (Brock et al., ICLR 2019, appendix B).

    88 M parameters; it takes images of any size from 32 x 32 on.
    """

    def __init__(self, width: int = 96, channels: int = 3) -> None:
        super().__init__()
        sizes = [channels, *(width * times for times in (1, 2, 4, 8, 16, 16))]
        pairs = enumerate(itertools.pairwise(sizes))
        blocks: list[nn.Module] = [Block(a, b, downsample=i < 5, of_images=i == 0) for i, (a, b) in pairs]
        self.blocks = nn.Sequential(blocks[0], _Attention(width), *blocks[1:])
        self.score = spectral_norm(nn.Linear(16 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, 1)."""
        return self.score(F.relu(self.blocks(x)).sum((2, 3)))


class TransformerWithHeads(nn.Module):
    """A small transformer encoder and one linear head a task, each on the mean over the tokens."""

    def __init__(self, heads: int = 4, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.trunk = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(heads))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(n, tokens, width) -> what the heads share, (n, width), and logits of ten classes for each task."""
        shared = self.trunk(x).mean(1)
        return shared, [head(shared) for head in self.heads]


class PerceptronWithHeads(nn.Module):
    """A trunk of one layer and a perceptron of eight for each task, so that most activations belong to one head."""

    def __init__(self, heads: int = 4, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(32, width), nn.Tanh())
        hidden = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(heads * depth)]
        self.heads = nn.ModuleList(
            nn.Sequential(*hidden[i * depth : (i + 1) * depth], nn.Linear(width, 10)) for i in range(heads)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(n, 32) -> what the heads share, (n, width), and logits of ten classes for each task."""
        shared = self.trunk(x)
        return shared, [head(shared) for head in self.heads]


def dcgan_generator(width: int = 64, channels: int = 3, latent: int = 100) -> nn.Sequential:
    """DCGAN's generator of 32 x 32 images from (n, latent, 1, 1)."""
    return nn.Sequential(
        nn.ConvTranspose2d(latent, 4 * width, 4, 1, 0, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, 2, 1),
        nn.Tanh(),
    )
