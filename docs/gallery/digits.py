"""Three tasks on one trunk: scikit-learn's digits.

    python docs/gallery/digits.py [--quick]

From 8 x 8 pixels a trunk of two layers feeds three heads: which digit it is, how far the image was turned, and where
its ink lies. The third is a regression whose loss is small and soon smaller; the second pulls the trunk away from what
the first wants. ``trunk=net.trunk`` shows the rule the gradients that the tasks share, and each head follows its own
loss.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from _common import save, start
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient, Rule
from gradweight.rules import NashMTL, Sum, UPGrad

TASKS = ("digit", "turn", "centre")
TEST = 500
SEEDS = 3


class Net(nn.Module):
    """A trunk, and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"digit": nn.Linear(16, 10), "turn": nn.Linear(16, 4), "centre": nn.Linear(16, 2)})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What each head says."""
        shared = self.trunk(images.flatten(1))
        return {task: head(shared) for task, head in self.heads.items()}


def data() -> tuple[Tensor, dict[str, Tensor]]:
    """Images, each turned by a random quarter, and what there is to say about them."""
    digits = load_digits()
    images, turn = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.randint(4, (len(digits.images),))
    images = torch.stack([torch.rot90(image, int(k)) for image, k in zip(images, turn, strict=True)])
    at = torch.linspace(-1, 1, 8)
    ink = images.sum((1, 2))
    centre = torch.stack([(images.sum(1) @ at) / ink, (images.sum(2) @ at) / ink], dim=1)
    return images, {"digit": torch.tensor(digits.target), "turn": turn, "centre": centre}


def losses(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "digit": F.cross_entropy(outputs["digit"], targets["digit"]),
        "turn": F.cross_entropy(outputs["turn"], targets["turn"]),
        "centre": F.mse_loss(outputs["centre"], targets["centre"]),
    }


@torch.no_grad()
def errors(net: nn.Module, images: Tensor, targets: dict[str, Tensor]) -> list[float]:
    """Share of wrong digits, of wrong turns, and of the variance of the centre that is not explained."""
    outputs = net(images)
    wrong = [float((outputs[task].argmax(1) != targets[task]).float().mean()) for task in ("digit", "turn")]
    residual = (outputs["centre"] - targets["centre"]).square().sum()
    spread = (targets["centre"] - targets["centre"].mean(0)).square().sum()
    return [*wrong, float(residual / spread)]


def train(rule: Rule, seed: int, epochs: int, images: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Test errors after each epoch, (epochs, tasks)."""
    torch.manual_seed(seed)
    net = Net()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=2e-3), rule, trunk=net.trunk)
    found = []
    for _ in range(epochs):
        for batch in torch.randperm(len(images) - TEST).split(64):
            opt.zero_grad()
            opt.backward(losses(net(images[batch]), {task: some[batch] for task, some in targets.items()}))
            opt.step()
        found.append(errors(net, images[-TEST:], {task: some[-TEST:] for task, some in targets.items()}))
    return torch.tensor(found)


def main() -> None:
    options = start(__doc__)
    epochs, seeds = (2, 1) if options.quick else (40, SEEDS)
    images, targets = data()
    figure, axes = plt.subplots(1, 3, figsize=(8.3, 3.4))
    for i, rule in enumerate((Sum(), UPGrad(), NashMTL())):
        runs = torch.stack([train(rule, seed, epochs, images, targets) for seed in range(seeds)])
        name = type(rule).__name__
        print(
            f"{name}: {', '.join(f'{t} {e:.1%}' for t, e in zip(TASKS, runs[:, -1].mean(0), strict=True))}", flush=True
        )
        for axis, of_task in zip(axes, runs.unbind(2), strict=True):
            axis.plot(range(1, epochs + 1), 100 * of_task.mean(0), color=f"C{i}", label=name)
            axis.fill_between(
                range(1, epochs + 1), 100 * of_task.amin(0), 100 * of_task.amax(0), color=f"C{i}", alpha=0.15, lw=0
            )
    for axis, title in zip(axes, ("wrong digits", "wrong turns", "centre not explained"), strict=True):
        axis.set(title=f"{title} (%)", xlabel="epoch", ylim=(0, None))
        axis.grid()
    axes[0].set_ylabel("of 500 test images")
    axes[2].legend()
    figure.suptitle(f"Three tasks on one trunk: mean and range of {seeds} seeds")
    save(figure, "digits.png", options)


if __name__ == "__main__":
    main()
