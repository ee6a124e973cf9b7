"""Parameters on two devices: by fake tensors, which know where they lie and need no device to be there.

And a default device that is not the parameters': by the meta device, which holds no values.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight import MultiObjectiveGradient
from gradweight.distributed.sums import ReplicatedSums
from gradweight.gradients.accumulation import AccumulatedGradients
from gradweight.gradients.results import Gradients
from gradweight.rules import UPGrad
from gradweight.rules.claims import CLAIMS, NAMES
from gradweight.step.combiner import Combiner
from gradweight.step.combiner_input import CombinerInput

every_rule = pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)


def combined(rule, m, devices, blocks=None, signals=None):
    """Two steps of two micro-batches, without an autograd engine, which does need the device."""
    params = [torch.zeros(4, device=device) for device in devices]
    targets = [torch.empty_like(p) for p in params]
    saved: dict[str, object] = {}
    for _ in range(2):
        rows = [[torch.ones_like(p) for p in params] for _ in range(m)]
        losses = [torch.ones((), device=devices[1]) for _ in range(m)]
        one = AccumulatedGradients.from_micro_batch(Gradients(NAMES[:m], losses, rows), params, signals or {})
        both = replace(one, rows=[[torch.ones_like(p) for p in params] for _ in range(m)]).add(one)
        seen, changed = Combiner(rule)(CombinerInput(both, blocks, saved, targets, ReplicatedSums(params)))
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


@every_rule
@pytest.mark.parametrize("how", ["backward", "join"])
def test_a_dry_run_on_the_meta_device(claims, how):
    """Whole steps, of two micro-batches and of one, without a number: shapes, dtypes and devices of a real run."""
    low, high = claims.losses
    names = NAMES[: min(max(low, 2), high)]
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to("meta")
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), 1e-3), claims.rule)
    for micro_batches in (2, 1):
        opt.zero_grad()
        for _ in range(micro_batches):
            y = net(torch.empty(5, 3, device="meta"))
            losses = {name: (i + y[:, 0]).square().mean() for i, name in enumerate(names)}
            if how == "join":
                opt.join(losses, **claims.signals).backward()
            else:
                opt.backward(losses, **claims.signals)
        opt.step()
    assert all(p.grad.is_meta and p.grad.shape == p.shape and p.grad.dtype == p.dtype for p in net.parameters())
    assert opt.last.weights.is_meta
    assert opt.last.weights.shape == (len(names),)


def trained(claims, default, **options):
    """Three steps of two micro-batches, the network made elsewhere than where new tensors go by default."""
    torch.manual_seed(0)
    low, _ = claims.losses
    names = NAMES[: max(low, 2)]
    net = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, len(names)))
    data = torch.randn(6, 4, 3)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), claims.rule, history=3, **options)
    with torch.device(default):
        for x in data.split(2):
            opt.zero_grad()
            for part in x:
                outs = net(part).unbind(dim=1)
                losses = {name: out.square().mean() + 0.1 for name, out in zip(names, outs, strict=True)}
                opt.backward(losses, **claims.signals)
            opt.step()
        opt.load_state_dict(opt.state_dict())
    return net, opt


@every_rule
@pytest.mark.parametrize("blocks", [None, "group"])
def test_the_default_device_does_not_matter(claims, blocks):
    net, opt = trained(claims, "meta", blocks=blocks)
    like, _ = trained(claims, "cpu", blocks=blocks)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), like.parameters(), strict=True))
    assert {seen.weights.device.type for seen in opt.history} == {"cpu"}
    with torch.device("meta"):
        assert opt.last.as_dict()
        assert str(opt.last)


def test_a_dry_run_without_values():
    w = nn.Parameter(torch.ones(2, device="meta"))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), UPGrad())
    for _ in range(2):  # without zero_grad, which makes us look at values
        seen = opt.backward({"a": w.sum(), "b": w.exp().sum()})
        opt.step()
    assert w.grad.is_meta
    assert str(seen) == "2 losses ['a', 'b'], on the meta device, without values"
