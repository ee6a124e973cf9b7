"""Parameters on two devices: by fake tensors, which know where they lie and need no device to be there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight.accumulation import Accumulated
from gradweight.combiner import Combiner
from gradweight.gradients import Gradients
from gradweight.rules.claims import CLAIMS, NAMES
from gradweight.sums import OfWholes

every_rule = pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)


def combined(rule, m, devices, blocks=None, signals=None):
    """Two steps of two micro-batches, without an autograd engine, which does need the device."""
    params = [torch.zeros(4, device=device) for device in devices]
    targets = [torch.empty_like(p) for p in params]
    saved: dict[str, object] = {}
    for _ in range(2):
        rows = [[torch.ones_like(p) for p in params] for _ in range(m)]
        losses = [torch.ones((), device=devices[1]) for _ in range(m)]
        one = Accumulated.of(Gradients(NAMES[:m], losses, rows), params, signals or {})
        both = replace(one, rows=[[torch.ones_like(p) for p in params] for _ in range(m)]).plus(one)
        seen, changed = Combiner(rule)(both, blocks, saved, targets, OfWholes(params))
        saved |= changed
    return seen


@every_rule
@pytest.mark.parametrize(
    ("devices", "blocks"), [(("cpu", "meta"), None), (("meta", "cpu"), ["a", "b"])], ids=["whole", "by block"]
)
def test_every_operand_is_brought_to_where_it_is_needed(claims, devices, blocks):
    low, _ = claims.losses
    with FakeTensorMode():
        # signals come from where the losses do
        signals = {name: torch.full((), value, device=devices[1]) for name, value in claims.signals.items()}
        seen = combined(claims.rule, max(low, 2), devices, blocks, signals)
        assert seen.weights.device.type == seen.gram.device.type == devices[0]


def test_an_operand_on_the_other_device_is_noticed():
    """The test above can fail."""
    with FakeTensorMode():
        elsewhere = torch.ones(2, device="meta")
        with pytest.raises(RuntimeError, match=r"two.* devices"):
            combined(lambda gram: gram[0] * elsewhere, 2, ("cpu", "meta"))
