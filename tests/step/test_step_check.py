"""The table of what may lie in ``.grad`` when the base steps: right, a warning once, or an error."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import DWA, Sum

X = torch.ones(3, 2)


def setting(rule=None, **options):
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.3, -0.2], [0.1, 0.4]]))
        net.bias.zero_()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule or Sum(), **options)
    return net, opt


def losses(net):
    out = net(X)
    return {"a": (out[:, 0] - 1).square().mean(), "b": out[:, 1].exp().mean()}


def clip(net, opt):
    nn.utils.clip_grad_norm_(net.parameters(), 0.1)


def add(net, opt):
    sum(losses(net).values()).backward()


def noise(net, opt):
    for p in net.parameters():
        p.grad.add_(0.01)


def clear(net, opt):
    net.zero_grad()


def clear_and_walk_back(net, opt):
    net.zero_grad()
    sum(losses(net).values()).backward()


def assign(net, opt):
    for p in net.parameters():
        p.grad = p.grad.clamp(-0.1, 0.1)


def nothing(net, opt):
    pass


@pytest.mark.parametrize("between", [nothing, clip, add, noise])
def test_right(between):
    net, opt = setting()
    opt.backward(losses(net))
    between(net, opt)
    follows = {p: p.detach().add(p.grad, alpha=-0.1) for p in net.parameters()}
    opt.step()
    for p, expected in follows.items():
        torch.testing.assert_close(p, expected, rtol=0, atol=0)


@pytest.mark.parametrize("between", [clear, clear_and_walk_back, assign])
def test_replaced(between):
    net, opt = setting()
    opt.backward(losses(net))
    between(net, opt)
    with pytest.warns(UserWarning, match="other tensors in .grad, or none, than the last") as caught:
        opt.step()
    assert caught[0].filename == __file__
    opt.zero_grad()
    opt.backward(losses(net))
    between(net, opt)
    opt.step()  # once


def test_only_the_optimizer_was_swapped():
    net, opt = setting()
    sum(losses(net).values()).backward()
    with pytest.warns(UserWarning, match=r"backward\(\) was never called.*opt\.backward.*opt\.join") as caught:
        opt.step()
    assert caught[0].filename == __file__
    opt.zero_grad()
    sum(losses(net).values()).backward()
    opt.step()  # once


def test_a_plain_step_among_others_is_right():
    """R1 by itself, say."""
    net, opt = setting()
    opt.backward(losses(net))
    opt.step()
    opt.zero_grad()
    net.weight.square().sum().backward()
    opt.step()


def test_a_step_without_any_gradient_is_right():
    _, opt = setting()
    opt.step()


@pytest.mark.parametrize("copied", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_the_base_by_itself(copied):
    """What the rule remembers is that of a run whose steps all went through the wrapper."""
    found = []
    for direct in (False, True):
        net, opt = copied(setting(DWA()))
        for _ in range(3):
            opt.zero_grad()
            opt.backward(losses(net))
            opt.base.step() if direct else opt.step()
        found.append(opt.base.param_groups[0]["rule_state"])
    assert found[0].keys() == found[1].keys()
    for key, entries in found[0].items():
        for name, value in entries.items() if isinstance(entries, dict) else [("", entries)]:
            other = found[1][key][name] if name else found[1][key]
            assert torch.equal(value, other)


def scaled(enabled=True):
    net, opt = setting()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=enabled)
    opt.backward(losses(net), scaler=scaler)
    return net, opt, scaler


def test_a_step_without_the_scaler():
    net, opt, scaler = scaled()
    before = net.weight.clone()
    with pytest.raises(RuntimeError, match=r"still multiplied by the loss scale .*scaler\.step\(opt\)"):
        opt.step()
    assert torch.equal(net.weight, before)
    scaler.step(opt)
    scaler.update()
    assert not torch.equal(net.weight, before)


def test_steps_with_a_scaler():
    plain, plain_opt = setting()
    plain_opt.backward(losses(plain))
    plain_opt.step()
    for how in ("scaler", "unscaled, then the scaler", "unscaled by hand", "disabled"):
        net, opt, scaler = scaled(enabled=how != "disabled")
        if how.startswith("unscaled"):
            scaler.unscale_(opt)
        if how in ("unscaled by hand", "disabled"):
            opt.step()
        else:
            scaler.step(opt)
        torch.testing.assert_close(net.weight, plain.weight)


def test_a_scaler_that_was_given_once_and_no_more():
    net, opt, scaler = scaled()
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()
    opt.backward(losses(net))
    opt.step()


def test_nothing_is_said_in_a_run():
    net, opt = setting()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            opt.zero_grad()
            opt.backward(losses(net))
            opt.step()
