"""A script as a user writes it, that type checkers are to find nothing in: see `.ci/typed/check.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradweight import Combination, MultiObjectiveGradient
from gradweight.gan import Hinge, critic_scores, probability_scores
from gradweight.rules import FAMO, AdaptiveWeights, GradDrop, UPGrad

net = nn.Linear(2, 1)
real, fake = net(torch.ones(4, 2)), net(torch.zeros(4, 2))

opt = MultiObjectiveGradient(torch.optim.Adam(net.named_parameters()), AdaptiveWeights(), engine="hooks", reduce="all")
seen: Combination = opt.backward(Hinge().discriminator(real, fake), **probability_scores(real, fake))
opt.zero_grad()
opt.backward(Hinge().discriminator(net(torch.ones(4, 2)), net(torch.zeros(4, 2))), **critic_scores(real, fake))
opt.step()


def by_norm(gram: Tensor, /) -> Tensor:
    """A rule of one's own."""
    return 1 / gram.diagonal().sqrt()


@dataclass(frozen=True)
class Mine:
    """A rule with a hyperparameter and a signal."""

    power: float = 0.5

    def __call__(self, gram: Tensor, /, *, losses: Tensor) -> Tensor:
        return losses**-self.power


for rule in (UPGrad(), FAMO(), GradDrop(), by_norm, Mine()):
    MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule)
MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), UPGrad(), blocks="layer")
MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), UPGrad(), blocks=lambda name: name or None)
loss: Tensor = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), UPGrad()).join({"a": net.weight.sum()})
