"""A rule's state stays where it is, so that a step that was recorded reads what it wrote the time before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import DWA, AngleBisector
from gradweight.step.rule_state import STATE_KEY, keep

NAMES = ["a", "b", "c"]


def copied(state):
    return {n: copied(v) if isinstance(v, dict) else v.clone() for n, v in state.items()}


def leaves(state):
    return [leaf for v in state.values() for leaf in (leaves(v) if isinstance(v, dict) else [v])]


def same(a, b):
    return a.keys() == b.keys() and all(
        same(v, b[n]) if isinstance(v, dict) else torch.equal(v, b[n]) for n, v in a.items()
    )


@st.composite
def states(draw):
    """A state, and changes whose tensors are new ones, those of the state under any name, or views of them."""
    size = draw(st.integers(1, 3))
    values = st.builds(lambda x: torch.full((size,), x), st.floats(-9, 9, width=32))
    flat = st.dictionaries(st.sampled_from(NAMES), values)
    saved = draw(st.dictionaries(st.sampled_from(NAMES), st.one_of(values, flat)))
    there = leaves(saved)
    some = st.sampled_from(there) if there else values
    value = st.one_of(values, some, some.map(lambda t: t.flip(0)), some.map(lambda t: t[:]), some.map(lambda t: t[:1]))
    return saved, draw(
        st.dictionaries(st.sampled_from(NAMES), st.one_of(value, st.dictionaries(st.sampled_from(NAMES), value)))
    )


@given(states())
def test_what_is_kept_is_what_a_new_dict_would_hold(case):
    saved, changed = case
    expected = copied(saved | changed)
    before = {name: v for name, v in saved.items() if isinstance(v, torch.Tensor)}
    keep(saved, changed)
    assert same(saved, expected)
    for name, tensor in before.items():
        if isinstance(saved[name], torch.Tensor) and saved[name].shape == tensor.shape:
            assert saved[name] is tensor
    places = [leaf.untyped_storage().data_ptr() for leaf in leaves(saved)]
    assert len(set(places)) == len(places)


class Remembers:
    """A rule whose weights are its state, which is what it was shown."""

    def init(self, gram):
        return {"weights": torch.ones(len(gram)), "losses": torch.zeros(len(gram))}

    def update(self, gram, state, *, losses):
        return state["weights"], {"weights": state["weights"] + state["losses"], "losses": losses}


def train(rule, steps, refresh_every=1):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    opt = MultiObjectiveGradient(
        torch.optim.SGD(net.parameters(), 0.1), rule, refresh_every=refresh_every, history=steps
    )
    places = []
    for step in range(steps):
        out = net(torch.full((4, 3), float(step)))
        opt.zero_grad()
        opt.backward({"a": out[:, 0].square().mean(), "b": (out[:, 1] - 1).square().mean()})
        opt.step()
        places.append(
            [(id(t), t.data_ptr()) for t in leaves(opt.param_groups[0][STATE_KEY]) if isinstance(t, torch.Tensor)]
        )
    return opt, places


@pytest.mark.parametrize("rule", [Remembers(), DWA()], ids=["remembers", "DWA"])
def test_the_tensors_of_a_rule_s_state_are_written_to_in_place(rule):
    _, places = train(rule, 4)
    assert places[0] == places[1] == places[3]
    assert places[0]


def test_held_weights_are_written_to_in_place():
    _, places = train(AngleBisector(), 5, refresh_every=2)
    assert places[0] == places[2] == places[4]
    assert places[0]


def test_what_was_returned_earlier_does_not_change():
    opt, _ = train(Remembers(), 4)
    first, second, third, fourth = opt.history
    assert torch.equal(first.weights, torch.ones(2))
    assert torch.equal(second.weights, torch.ones(2))
    # the losses that a step had seen come into the weights two steps later
    assert torch.equal(third.weights, second.weights + first.losses)
    assert torch.equal(fourth.weights, third.weights + second.losses)
