"""Rules on averages of gradients, and what an optimizer keeps for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradweight import MultiObjectiveGradient
from gradweight.rules import DBMTL, MConFIG, MoCo

RULES = {
    "MConFIG": MConFIG(),
    "MConFIG for Adam": MConFIG(for_adam=True),
    "MoCo": MoCo(),
    "MoCo by loss": MoCo(by_loss=True),
    "DBMTL": DBMTL(),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def snapshot(opt: MultiObjectiveGradient) -> dict[str, Tensor]:
    return {
        f"{i} {key}": value.clone()
        for i, p in enumerate(opt.param_groups[0]["params"])
        for key, value in opt.state.get(p, {}).items()
        if key.startswith(("average", "direction"))
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
