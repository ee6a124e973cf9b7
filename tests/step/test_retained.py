"""Two wrappers in place of two bases are two rules: said once, where it can be seen."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import UPGrad
from gradweight.step import retained


def two(*, same: bool = False) -> tuple[list[MultiObjectiveGradient], dict[str, Tensor]]:
    """A wrapper for each of two layers, or two for one, and losses of both."""
    layers = nn.Linear(3, 3), nn.Linear(3, 2)
    optimizers = [torch.optim.SGD(layers[0 if same else i].parameters(), lr=0.1) for i in (0, 1)]
    y = layers[1](torch.tanh(layers[0](torch.ones(4, 3))))
    return [MultiObjectiveGradient(each, UPGrad()) for each in optimizers], {"a": y[:, 0].sum(), "b": -y.mean()}


@pytest.mark.parametrize("how", ["backward", "join"])
def test_two_wrappers_of_different_parameters(how: str) -> None:
    (first, second), losses = two()
    if how == "backward":
        first.backward(losses, retain_graph=True)
    else:
        first.join(losses).backward(retain_graph=True)
    match = r"'a' was given to another.*MultiObjectiveGradient\(\[first, second\], rule\)"
    with pytest.warns(UserWarning, match=match) as caught:
        second.backward(losses, retain_graph=True)
    assert caught[0].filename == __file__
    second.zero_grad()
    second.backward(losses)  # once


@pytest.mark.parametrize("why", ["the same parameters", "other losses", "the same wrapper"])
def test_what_is_no_reason_to_say_so(why: str) -> None:
    (first, second), losses = two(same=why == "the same parameters")
    first.backward(losses, retain_graph=True)
    if why == "other losses":
        losses = {name: 2 * loss for name, loss in losses.items()}
    (first if why == "the same wrapper" else second).backward(losses)


def test_nothing_is_kept_alive() -> None:
    (first, _), losses = two()
    first.backward(losses, retain_graph=True)
    assert len(retained._GIVEN) >= 2
    keys = [id(loss) for loss in losses.values()]
    del losses
    gc.collect()
    assert not any(key in retained._GIVEN for key in keys)
