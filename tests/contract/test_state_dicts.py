"""Bases whose state dicts have more than torch's, or another form: they save and resume."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from ..hosts.problem import SlowNorms, network
from ..optimizers import assert_resumes_bit_for_bit, train
from .test_several import pair


class Slow(torch.optim.SGD):
    """An optimizer with something beside its parameters' states, as lookahead and warm-up counters are."""

    taken = 0

    def step(self, closure: Any = None) -> Any:
        self.taken += 1
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.taken = state_dict["taken"]


class Container(Optimizer):
    """An optimizer around others whose state dict is a list of theirs."""

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([p for o in optimizers for g in o.param_groups for p in g["params"]], {})
        self.param_groups = [group for o in optimizers for group in o.param_groups]

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(*args, **kwargs)

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


class Flat(Container):
    """The same with one flat mapping from parameter and name to value, in which there is no place for a dict."""

    def state_dict(self) -> dict[str, Any]:
        flat = {}
        for i, optimizer in enumerate(self.optimizers):
            state_dict = optimizer.state_dict()
            flat |= {f"{i}.state.{j}.{key}": v for j, s in state_dict["state"].items() for key, v in s.items()}
            groups = enumerate(state_dict["param_groups"])
            flat |= {f"{i}.group.{j}.{key}": v for j, group in groups for key, v in group.items()}
        assert not any(isinstance(value, dict) for value in flat.values())
        return flat

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for i, optimizer in enumerate(self.optimizers):
            own = optimizer.state_dict()
            groups = [
                {key: state_dict[f"{i}.group.{j}.{key}"] for key in group}
                for j, group in enumerate(own["param_groups"])
            ]
            states: dict[int, dict[str, Any]] = {}
            for key, value in state_dict.items():
                if key.startswith(f"{i}.state."):
                    number, _, name = key.removeprefix(f"{i}.state.").partition(".")
                    states.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


BASES: dict[str, Callable[[nn.Module], Any]] = {
    "a container": lambda net: Container(pair(net)),
    "a flat container": lambda net: Flat(pair(net)),
    "a container beside another": lambda net: [Container(pair(net)[:1]), pair(net)[1]],
    "a count beside the states": lambda net: [
        pair(net)[0],
        Slow([p for p in net.parameters() if p.ndim != 2], lr=0.05, momentum=0.9),
    ],
}


@pytest.mark.parametrize("kind", BASES)
def test_state_dicts_of_other_forms_resume(kind: str) -> None:
    assert_resumes_bit_for_bit(
        network,
        lambda net: MultiObjectiveGradient(BASES[kind](net), SlowNorms()),
        lambda net, opt, a, b: train(net, opt, slice(a, b)),
        5,
        9,
    )


def test_what_is_beside_the_states_is_loaded_and_what_lacks_is_named() -> None:
    net = network()
    opt = MultiObjectiveGradient(BASES["a count beside the states"](net), AngleBisector())
    train(net, opt, slice(3))
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    fresh = MultiObjectiveGradient(BASES["a count beside the states"](network()), AngleBisector())
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.base.optimizers[1].taken == 3
    container = MultiObjectiveGradient(Container(pair(net)), AngleBisector())
    with pytest.raises(ValueError, match=r"got no \['optimizers'\] among \['other'\]"):
        container.load_state_dict({"other": 1})
