"""Mistakes that type checkers are to find, each in a line that ends in `# wrong`: see `.ci/typed/check.py`."""

import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import FAMO, Sum

net = nn.Linear(2, 1)
base = torch.optim.SGD(net.parameters(), lr=0.1)
MultiObjectiveGradient(base, Sum(), engine="vmap")  # wrong
MultiObjectiveGradient(base, Sum(), reduce="mean")  # wrong
MultiObjectiveGradient(base, Sum(), blocks="tensor")  # wrong
MultiObjectiveGradient(base, Sum)  # wrong
MultiObjectiveGradient(base, FAMO)  # wrong
MultiObjectiveGradient(net, Sum())  # wrong
MultiObjectiveGradient(base, Sum(), history="all")  # wrong
MultiObjectiveGradient(base, Sum()).backward({"a": 0.0})  # wrong
