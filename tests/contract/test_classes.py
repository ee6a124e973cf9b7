"""A class in place of an optimizer, as hosts take it that build the optimizer themselves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from ..hosts.problem import LEARNING_RATE, assert_same, by_hand, network, several
from ..optimizers import train


class Logged(MultiObjectiveGradient.of(torch.optim.Adam, AngleBisector(), history=3)):  # type: ignore[misc]
    """As a user may write it: at the top of a module."""

    def step(self, closure: Any = None) -> Any:
        self.steps = getattr(self, "steps", 0) + 1
        return super().step(closure)


def test_its_objects_train_as_the_wrapper_does() -> None:
    kind = MultiObjectiveGradient.of(torch.optim.Adam, AngleBisector())
    assert issubclass(kind, MultiObjectiveGradient)
    assert kind.__name__ == "MultiObjectiveGradientAdam"
    net = network()
    train(net, kind(net.parameters(), lr=LEARNING_RATE), slice(None))
    assert_same(net.state_dict(), by_hand())
    net = network()
    train(net, kind(net.parameters(), LEARNING_RATE), slice(None))
    assert_same(net.state_dict(), by_hand())
    net = network()
    train(net, MultiObjectiveGradient.of(several, AngleBisector())(net.parameters(), lr=LEARNING_RATE), slice(None))
    assert_same(net.state_dict(), by_hand(base=several))


@pytest.mark.parametrize("kind", [MultiObjectiveGradient.of(torch.optim.Adam, AngleBisector(), history=3), Logged])
def test_class_and_objects_are_pickled_and_copied(kind: type[MultiObjectiveGradient]) -> None:
    again = pickle.loads(pickle.dumps(kind))
    assert (again is kind) == (kind is Logged)
    net = network()
    opt = again(net.parameters(), lr=LEARNING_RATE)
    train(net, opt, slice(6))
    for other_net, other in (copy.deepcopy((net, opt)), pickle.loads(pickle.dumps((net, opt)))):
        assert len(other.history) == 3
        train(other_net, other, slice(6, None))
        assert_same(other_net.state_dict(), by_hand())
        assert getattr(other, "steps", 12) == 12


def test_an_optimizer_that_is_built_already() -> None:
    with pytest.raises(TypeError, match="needs a class of optimizers, which the host builds; got a SGD"):
        MultiObjectiveGradient.of(torch.optim.SGD([nn.Parameter(torch.ones(1))]), AngleBisector())
