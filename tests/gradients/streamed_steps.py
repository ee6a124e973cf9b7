"""A wrapper that keeps no gradient of one loss, on two numbers."""

import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector


def wrapped(rule=None, **options):
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    return w, MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), rule or AngleBisector(), engine="gram", **options)
