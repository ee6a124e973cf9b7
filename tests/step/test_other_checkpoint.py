"""A checkpoint of another rule, or of other losses, is loaded, and it is said that the rule starts afresh."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import CRMOGM, DWA, FAMO, GradNorm, NormBalance, Sum, UPGrad


def trained(rule, names=("a", "b"), steps=2):
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.Adam([w], lr=0.1), rule)
    for _ in range(steps):
        step(opt, names)
    return opt


def step(opt, names):
    (w,) = opt.param_groups[0]["params"]
    opt.zero_grad()
    opt.backward({name: (w * (i + 1)).square().sum() for i, name in enumerate(names)})
    opt.step()


def resumed(rule, checkpoint):
    opt = trained(rule, steps=0)
    opt.load_state_dict(checkpoint.state_dict())
    return opt


@pytest.mark.parametrize(
    ("now", "match"),
    [
        (DWA(), "holds the state of FAMO; the rule is DWA, which starts afresh"),
        (GradNorm(), "holds the state of FAMO; the rule is GradNorm, which starts afresh"),
        (UPGrad(), "holds the state of FAMO; the rule is UPGrad, which has no state"),
        (CRMOGM(FAMO()), r"holds the state of FAMO; the rule is CRMOGM\(FAMO\), which starts afresh"),
    ],
    ids=str,
)
def test_another_rule(now, match):
    checkpoint = trained(FAMO())
    with pytest.warns(UserWarning, match=match) as caught:
        resumed(now, checkpoint)
    assert caught[0].filename == __file__


def test_the_rule_of_the_checkpoint_beside_another():
    """After a change of rule both states are there."""
    checkpoint = trained(FAMO())
    with pytest.warns(UserWarning, match="starts afresh"):
        opt = resumed(DWA(), checkpoint)
    step(opt, ("a", "b"))
    resumed(DWA(), opt)
    resumed(FAMO(), opt)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("a", "c"), r'state of NormBalance for the losses \["a", "b"\]; for \["a", "c"\] it starts afresh'),
        (("a", "b", "c"), r'for \["a", "b", "c"\] it starts afresh'),
        (("a",), r'for \["a"\] it starts afresh'),
        (("a", "b"), None),
        (("b", "a"), None),
    ],
)
def test_other_losses(names, match):
    opt = resumed(NormBalance(), trained(NormBalance()))
    with pytest.warns(UserWarning, match=match) if match else nullcontext():
        step(opt, names)
    step(opt, ("a", "d"))  # said on the first step only: later a term may come that was never there


@pytest.mark.parametrize("now", [FAMO(), Sum(), GradNorm()], ids=str)
def test_no_state_at_all(now):
    w = nn.Parameter(torch.ones(2))
    plain = torch.optim.Adam([w], lr=0.1)
    w.grad = torch.ones(2)
    plain.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(resumed(now, plain), ("a", "b"))
