"""Who conflicts with whom: four heads on one transformer.

    python docs/gallery/heads.py [--quick]

Sequences of 24 letters go through a small transformer. At each place one head predicts the next letter, one names the
first, one the most frequent so far, and one how long ago this letter was last seen. The optimizer adds the losses up,
as ever, and keeps what it saw: which of the tasks pull the trunk in opposite directions?
"""

from __future__ import annotations

import torch
from _common import save, start
from torch import Tensor, nn
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient, plot
from gradweight.rules import Sum

LETTERS, LENGTH, WIDTH = 8, 24, 32


class Transformer(nn.Module):
    """Two causal layers and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        sizes = {"next letter": LETTERS, "copy": LETTERS, "most frequent": LETTERS, "last seen": LENGTH}
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, size) for name, size in sizes.items()})
        self.trunk = [*self.letters.parameters(), *self.places.parameters(), *self.layers.parameters()]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """What each head says at each place."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        shared = self.layers(self.letters(x) + self.places.weight, mask=mask, is_causal=True)
        return {name: head(shared) for name, head in self.heads.items()}


def sequences(n: int) -> Tensor:
    """Each letter is the one three before plus one, or, one time in four, any, (n, 25)."""
    x = torch.randint(LETTERS, (n, LENGTH + 1))
    for i in range(3, LENGTH + 1):
        x[:, i] = torch.where(torch.rand(n) < 0.25, x[:, i], (x[:, i - 3] + 1) % LETTERS)
    return x


def targets(x: Tensor) -> dict[str, Tensor]:
    """What each head should say at each place, (n, 24)."""
    seen = F.one_hot(x[:, :-1], LETTERS).cumsum(1)
    place = torch.arange(LENGTH)
    same = (x[:, :-1, None] == x[:, None, :-1]) & (place[:, None] > place)
    last = torch.where(same, place, -1).amax(2)
    return {
        "next letter": x[:, 1:],
        "copy": x[:, :1].expand(-1, LENGTH),
        "most frequent": seen.argmax(2),
        "last seen": torch.where(last < 0, 0, place - last),
    }


def main() -> None:
    options = start(__doc__)
    steps = 3 if options.quick else 400
    net = Transformer()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=1e-3), Sum(), trunk=net.trunk, history=steps)
    for _ in range(steps):
        x = sequences(32)
        outputs, truth = net(x[:, :-1]), targets(x)
        opt.zero_grad()
        opt.backward({name: F.cross_entropy(out.flatten(0, 1), truth[name].flatten()) for name, out in outputs.items()})
        opt.step()
    print(opt.last)
    save(plot.conflicts(opt.history), "heads.png", options)


if __name__ == "__main__":
    main()
