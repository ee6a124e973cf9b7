"""Losses that cannot be differentiated are named, and everything stays as it was."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .setting import Setting, refused


def reentrant(s):
    out = checkpoint(s.net, s.x.clone().requires_grad_(), use_reentrant=True)
    return {"real": out[:, 0].sum(), "fake": out[:, 1].sum()}


stranger = nn.Parameter(torch.ones(2, dtype=torch.float64))

BAD_LOSSES = {
    "empty": (lambda s: {}, ValueError, "at least one loss; got an empty mapping"),
    "not a mapping": (lambda s: s.losses()["real"], TypeError, "must be a mapping .*got Tensor"),
    "a list": (lambda s: list(s.losses().values()), TypeError, "must be a mapping .*got list"),
    "name not a str": (lambda s: {0: s.losses()["real"]}, TypeError, "names of losses must be str; got 0 of type int"),
    "not a scalar": (lambda s: s.losses() | {"fake": s.net(s.x)}, ValueError, r"'fake' must be a scalar.*\(5, 2\)"),
    "a number": (lambda s: s.losses() | {"fake": 1.0}, TypeError, "'fake' must be a scalar tensor; got float"),
    "none": (lambda s: dict.fromkeys(s.losses()), TypeError, "'real' must be a scalar tensor; got NoneType"),
    "an integer tensor": (lambda s: s.losses() | {"fake": torch.tensor(1)}, TypeError, "'fake' must be real.*int64"),
    "complex": (
        lambda s: s.losses() | {"fake": s.losses()["real"] * 1j},
        TypeError,
        "'fake' must be real and floating-point; got torch.complex128",
    ),
    "detached": (
        lambda s: s.losses() | {"fake": s.losses()["fake"].detach()},
        ValueError,
        "'fake' has no graph .*detached",
    ),
    "another model's": (
        lambda s: s.losses() | {"fake": stranger.sum()},
        ValueError,
        "'fake' reaches none of the parameters of the base optimizer",
    ),
    "other names": (
        lambda s: {"real": s.losses()["real"], "penalty": s.losses()["fake"]},
        ValueError,
        r"need the same losses: \['real', 'fake'\] before, \['real', 'penalty'\] now; call zero_grad",
    ),
    "fewer names": (lambda s: {"real": s.losses()["real"]}, ValueError, r"before, \['real'\] now"),
    "more names": (
        lambda s: s.losses() | {"penalty": s.losses()["fake"]},
        ValueError,
        r"before, \['real', 'fake', 'penalty'\] now",
    ),
    "functions and tensors": (
        lambda s: s.losses() | {"fake": lambda p: p["0.bias"].sum()},
        TypeError,
        "all tensors or all functions of the parameters; 'real' is Tensor",
    ),
    "a function that returns no mapping": (lambda s: lambda p: p["0.bias"].sum(), TypeError, "mapping .*got Tensor"),
    "a function that returns no scalar": (
        lambda s: {"real": lambda p: p["0.bias"], "fake": lambda p: p["0.bias"].sum()},
        ValueError,
        r"'real' must be a scalar; got shape \(4,\)",
    ),
    "a function that fails": (lambda s: lambda p: p["absent"], KeyError, "absent"),
}


@pytest.mark.parametrize(("make", "error", "match"), BAD_LOSSES.values(), ids=BAD_LOSSES)
@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_losses(make, error, match, engine):
    setting, twin = (Setting(options={"engine": engine}) for _ in range(2))
    losses = make(setting)
    with refused(setting, twin, error, match):
        setting.opt.backward(losses)


def test_a_function_that_ignores_the_parameters_it_is_given():
    setting, twin = (Setting() for _ in range(2))
    losses = {"real": lambda p: setting.losses()["real"], "fake": lambda p: p["0.bias"].sum()}
    with refused(setting, twin, ValueError, "'real' (reaches none of the parameters|has no graph)"):
        setting.opt.backward(losses)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_a_loss_that_reaches_nothing_is_found_before_any_graph_is_spent(engine):
    setting = Setting(options={"engine": engine})
    losses = setting.losses()
    with pytest.raises(ValueError, match="'stranger' reaches none"):
        setting.opt.backward(losses | {"stranger": stranger.sum()})
    assert stranger.grad is None
    setting.opt.backward(losses)


def test_a_spent_graph():
    setting, twin = (Setting() for _ in range(2))
    losses = setting.losses()
    torch.autograd.grad(losses["fake"], list(setting.net.parameters()), allow_unused=True)
    with refused(setting, twin, RuntimeError, "second time"):
        setting.opt.backward(losses)


def test_tensors_for_the_func_engine():
    setting, twin = (Setting(options={"engine": "func"}) for _ in range(2))
    losses = setting.losses()
    with refused(setting, twin, TypeError, "engine='func' needs losses that are functions .* got tensors"):
        setting.opt.backward(losses)


def test_a_reentrant_checkpoint_for_the_autograd_engine():
    setting, twin = (Setting(options={"engine": "autograd"}) for _ in range(2))
    losses = reentrant(setting)
    with refused(setting, twin, RuntimeError, "engine='autograd' cannot see through .*use_reentrant=True"):
        setting.opt.backward(losses)


def test_a_second_backward_in_place():
    setting, twin = (Setting(options={"accumulate": False}) for _ in range(2))
    with refused(setting, twin, RuntimeError, "accumulate=False says"):
        setting.good_backward()
