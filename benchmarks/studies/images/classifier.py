"""The judge of the image studies: a small classifier trained on the same data, and the numbers that it gives.

**Not FID and not Inception Score.** Those are defined by the weights of one Inception network, trained on ImageNet.
Here the features are the 64 of this classifier's last layer but one, so the numbers are called classifier-FID and
classifier-score, compare runs judged by the same weights only, and must never be set beside published FIDs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.studies.images.datasets import Images, to_unit
from gradweight.gan import classifier_score, frechet_distance, precision_recall, sliced_wasserstein

METRICS = {
    "classifier_fid": "classifier-FID",
    "classifier_score": "classifier-score",
    "precision": "precision",
    "recall": "recall",
    "sliced_wasserstein": "sliced Wasserstein",
}
"""The columns of the CSV files, and their names in figures; of the first and last, less is better."""


class Classifier(nn.Module):
    """Three convolutions, the mean over pixels, one linear layer: about 24,000 parameters."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, classes)."""
        return self.head(self.body(x))


def trained(images: Images, path: Path, *, epochs: int = 2, seed: int = 0, device: str = "cpu") -> Classifier:
    """The classifier in ``path``, or a new one that is trained on the labelled images and put there."""
    classes = int(images.train_labels.max()) + 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Classifier(images.channels, classes).to(device)
    if path.exists():
        net.load_state_dict(torch.load(path, map_location=device, weights_only=True))
        return net.eval()
    random = torch.Generator().manual_seed(seed)
    steps = epochs * (len(images.train) // 128)
    opt = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, max(steps, 2))
    for _ in range(steps):
        pick = torch.randint(len(images.train), (128,), generator=random)
        opt.zero_grad()
        F.cross_entropy(net(to_unit(images.train[pick]).to(device)), images.train_labels[pick].to(device)).backward()
        opt.step()
        schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


class Judge:
    """The metrics of generated images against real ones, with one classifier's features.

    Args:
        images: the data; classifier-FID is against the first 10,000 of what the GAN is trained on, the rest against as
            many test images as there are generated ones.
        classifier: in evaluation mode.
        device: where to compute.
    """

    def __init__(self, images: Images, classifier: Classifier, device: str = "cpu") -> None:
        self.classifier, self.device, self.test = classifier, device, images.test
        self.real = self._seen(images.samples[:10_000])[0]

    def __call__(self, fake: Tensor) -> dict[str, float]:
        """The numbers of `METRICS` for images in [-1, 1], (n, channels, pixels, pixels)."""
        features, probabilities = self._seen(fake)
        test = to_unit(self.test[: len(fake)]).to(fake.device)
        precision, recall = precision_recall(self._seen(test)[0], features)
        return {
            "classifier_fid": float(frechet_distance(self.real, features)),
            "classifier_score": float(classifier_score(probabilities)),
            "precision": float(precision),
            "recall": float(recall),
            "sliced_wasserstein": float(sliced_wasserstein(test.flatten(1), fake.flatten(1))),
        }

    def of_real(self, n: int) -> dict[str, float]:
        """What n real images get that nobody trained on: the best that a generator can hope for.

        They are the test images that the others are not compared with, as far as there are enough.
        """
        return self(to_unit(self.test[-n:]).to(self.device))

    @torch.no_grad()
    def _seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and class probabilities, of bytes or of floats in [-1, 1]."""
        parts = []
        for part in torch.split(images, 1000):
            part = to_unit(part) if part.dtype == torch.uint8 else part
            features = self.classifier.body(part.to(self.device))
            parts.append((features, self.classifier.head(features).softmax(1)))
        return torch.cat([f for f, _ in parts]), torch.cat([p for _, p in parts])

    @torch.no_grad()
    def accuracy(self, images: Images) -> float:
        """The classifier's share of test images that it names rightly."""
        return float((self._seen(images.test)[1].argmax(1).cpu() == images.test_labels).float().mean())
