"""The networks of the image studies: DCGAN for 32 x 32 pixels, with batch norm or not, and SN-GAN.

Each is as in its paper at its default width. They are built from the ones in `models.py`, which the timings use.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import models
from gradweight.gan import GANLoss, Hinge, Vanilla

NOISE = 128


@dataclass(frozen=True)
class Setting:
    """How a pair of networks is trained: the loss, Adam's betas, discriminator steps for each of the generator.

    A generator's batch of None is as large as the discriminator's; with `decays` the rate goes down to 0 over so many
    steps.
    """

    loss: GANLoss
    inside_advas: GANLoss
    betas: tuple[float, float]
    discriminator_steps: int
    rate: float = 2e-4
    generator_batch: int | None = None
    decays: int | None = None


SETTINGS = {
    "dcgan": Setting(Vanilla(), Vanilla(), (0.5, 0.999), 1),
    "sngan": Setting(Hinge(), Hinge(truncated=False), (0.0, 0.9), 3),
}


def networks(name: str, width: int, channels: int, pixels: int = 32) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of a setting for images of `pixels` x `pixels`, freshly initialised.

    Raises:
        ValueError: a size that the network is not for: DCGAN takes 32, SN-GAN multiples of 8.
    """
    if pixels % 8 or (name == "dcgan" and pixels != 32):
        raise ValueError(f"{name} takes images of {'32' if name == 'dcgan' else '8 n'} pixels; got {pixels}")
    if name == "dcgan":
        return dcgan_generator(width, channels), dcgan(width, channels, batch_norm=True)
    return SNGANGenerator(width, channels, pixels), sngan(width, channels)


def dcgan_generator(width: int = 64, channels: int = 1) -> nn.Sequential:
    """DCGAN's generator (Radford, Metz, Chintala, ICLR 2016): noise (n, 128) to images (n, channels, 32, 32)."""
    return _initialised(nn.Sequential(nn.Unflatten(1, (NOISE, 1, 1)), *models.dcgan_generator(width, channels, NOISE)))


def dcgan(width: int = 64, channels: int = 1, *, batch_norm: bool = True) -> nn.Sequential:
    """DCGAN's discriminator; without batch norm, each convolution that had one gets a bias instead.

    Batch norm undoes the scale of DCGAN's small initial weights. Without it a narrow network would start at logits that
    hardly depend on the image, so there the weights start as Kaiming's rule for LeakyReLU has them.
    """
    net = models.dcgan_discriminator(width, channels)
    if not batch_norm:
        for i, layer in enumerate(net):
            if isinstance(layer, nn.BatchNorm2d):
                before = net[i - 1]
                net[i - 1] = nn.Conv2d(before.in_channels, before.out_channels, 4, 2, 1)
                net[i] = nn.Identity()
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, 0.2)
                nn.init.zeros_(layer.bias)
        return net
    return _initialised(net)


def _initialised(net: nn.Sequential) -> nn.Sequential:
    """DCGAN's own start: weights of standard deviation 0.02, no biases."""
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


class _UpBlock(nn.Module):
    """A residual block of SN-GAN's generator, which doubles the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs[0](F.interpolate(F.relu(self.norms[0](x)), scale_factor=2))
        # a 1 x 1 convolution and the repetition of pixels commute
        return self.convs[1](F.relu(self.norms[1](y))) + F.interpolate(self.shortcut(x), scale_factor=2)


class SNGANGenerator(nn.Module):
    """SN-GAN's residual generator (Miyato et al., ICLR 2018, table 4): noise (n, 128) to images of 32 x 32.

    Images of 48 x 48 start at 6 x 6 and take the same blocks; the authors' network for them narrows block by block.
    """

    def __init__(self, width: int = 256, channels: int = 1, pixels: int = 32) -> None:
        super().__init__()
        self.width, self.start = width, pixels // 8
        self.dense = nn.Linear(NOISE, width * self.start**2)
        self.blocks = nn.Sequential(*(_UpBlock(width) for _ in range(3)))
        self.out = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        """Images in [-1, 1], (n, channels, pixels, pixels)."""
        return self.out(self.blocks(self.dense(noise).reshape(-1, self.width, self.start, self.start)))


def sngan(width: int = 128, channels: int = 1) -> models.SNGANDiscriminator:
    """SN-GAN's residual discriminator, its first block drawn after the others, as in the runs that are kept."""
    net = models.SNGANDiscriminator(width, channels)
    net.blocks[0] = models.Block(channels, width, of_images=True)
    return net
