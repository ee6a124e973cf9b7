"""What a rule remembers is found again for the losses and the rule that it belongs to, and for no others."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    CRMOGM,
    IMTLL,
    AngleBisector,
    GradNorm,
    GradVac,
    MoDo,
    NormBalance,
    SDMGrad,
)
from gradweight.step.state_names import for_losses, remembered_order, title


def wrapped(rule: object, **options: object) -> tuple[nn.Parameter, MultiObjectiveGradient]:
    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    return p, MultiObjectiveGradient(torch.optim.SGD([p], lr=0.0), rule, **options)


def weights(opt: MultiObjectiveGradient, losses: dict[str, Tensor]) -> dict[str, float]:
    opt.zero_grad()
    seen = opt.backward(losses)
    seen = next(iter(seen.blocks.values()), seen)
    opt.step()
    return dict(zip(seen.names, seen.weights.tolist(), strict=True))


@given(st.lists(st.lists(st.text(max_size=3), unique=True, min_size=1, max_size=3), max_size=4))
def test_names_of_any_characters(sets: list[list[str]]) -> None:
    names = [for_losses("state", one, " in group 0") for one in sets]
    assert len(set(names)) == len({tuple(one) for one in sets})
    for one in sets:
        found = remembered_order(one[::-1], names)
        assert found is not None
        assert sorted(found) == sorted(one)
    assert remembered_order(["more than three characters"], ["step", *names]) is None


@pytest.mark.parametrize("blocks", [None, "group"])
@pytest.mark.parametrize("rule", [NormBalance({"a": 1.0, "b": 3.0}, beta=0.5), CRMOGM(AngleBisector()), GradNorm()])
def test_the_order_of_the_mapping_makes_no_difference(rule: object, blocks: str | None) -> None:
    """Not from step to step either: the state is the losses', not the positions'."""
    (p, straight), (q, turned) = wrapped(rule, blocks=blocks), wrapped(rule, blocks=blocks)
    for i in range(4):
        a = weights(straight, {"a": (1 + i) * p[0], "b": 10 * p[:2].square().sum()})
        losses = {"a": (1 + i) * q[0], "b": 10 * q[:2].square().sum()}
        if i == 2:  # a resumed run starts in whatever order it likes
            q, resumed = wrapped(rule, blocks=blocks)
            resumed.load_state_dict(turned.state_dict())
            turned = resumed
            losses = {"a": (1 + i) * q[0], "b": 10 * q[:2].square().sum()}
        b = weights(turned, dict(reversed(losses.items())) if i % 2 == 0 and i > 0 else losses)
        assert b == pytest.approx(a, rel=1e-12)


def test_names_with_the_characters_that_join_names() -> None:
    p, opt = wrapped(NormBalance(beta=0.5))
    for _ in range(2):
        assert weights(opt, {"a~b": p[0]}) == {"a~b": 1.0}
        assert weights(opt, {"a": p[0], "b": 4 * p[1]}) == {"a": 0.5, "b": 0.125}
        assert weights(opt, {"a~b": 2 * p[0], "c": p[1]}) == {"a~b": 0.25, "c": 0.5}
        assert weights(opt, {"a": 2 * p[0], "b~c": p[1]}) == {"a": 0.25, "b~c": 0.5}


RULES = (
    NormBalance(),
    GradNorm(),
    GradVac(),
    IMTLL(),
    MoDo(),
    SDMGrad(),
    CRMOGM(AngleBisector()),
    CRMOGM(NormBalance()),
    CRMOGM(IMTLL()),
)


@pytest.mark.parametrize("after", RULES, ids=repr)
def test_a_checkpoint_of_another_rule_leaves_the_new_one_at_its_start(after: object) -> None:
    for before in RULES:
        p, opt = wrapped(before)
        weights(opt, {"a": p[0], "b": 3 * p[1]})
        q, other = wrapped(after)
        same = title(before) == title(after)
        with nullcontext() if same else pytest.warns(UserWarning, match=r"the rule is .*, which starts afresh"):
            other.load_state_dict(opt.state_dict())
        r, fresh = wrapped(after)
        # the number of steps taken is the run's, and stays
        if before is not after and not isinstance(after, GradVac):
            assert weights(other, {"a": q[0], "b": 5 * q[1]}) == weights(fresh, {"a": r[0], "b": 5 * r[1]})


def test_another_setting_of_the_same_rule_goes_on() -> None:
    p, opt = wrapped(NormBalance(beta=0.5))
    weights(opt, {"a": p[0], "b": 3 * p[1]})
    q, other = wrapped(NormBalance(beta=0.25))
    other.load_state_dict(opt.state_dict())
    average = (0.25 * 1 + 5) / 1.25
    assert weights(other, {"a": 5 * q[0], "b": 5 * q[1]})["a"] == pytest.approx(0.5 / average)
