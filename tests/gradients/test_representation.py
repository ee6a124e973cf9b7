"""shared=: the rule sees the gradients at the features, the trunk is walked back once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Sum


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    return nn.ModuleDict({"trunk": trunk, "left": nn.Linear(4, 1), "right": nn.Linear(4, 1)}).double()


def forward(net: nn.ModuleDict) -> tuple[Tensor, dict[str, Tensor]]:
    features = net["trunk"](torch.linspace(-1, 1, 18, dtype=torch.float64).view(6, 3))
    left, right = net["left"](features), net["right"](features)
    return features, {"a": left.square().mean(), "b": 7 * (right - 1).abs().mean(), "c": (left * right).mean()}


def wrapped(net: nn.ModuleDict, rule: object) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule)


@pytest.mark.parametrize("through_join", [False, True])
def test_against_the_chain_rule_by_hand(through_join: bool) -> None:
    net = network()
    opt = wrapped(net, AngleBisector())
    features, losses = forward(net)
    if through_join:
        (opt.join(losses, shared=features) / 4).backward()
    else:
        opt.backward(losses, shared=features)
    assert opt.last is not None

    z, losses = forward(net)
    at_z = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses.values()]
    gram = torch.stack([torch.stack([(a * b).sum() for b in at_z]) for a in at_z])
    torch.testing.assert_close(opt.last.gram, gram, rtol=1e-12, atol=1e-15)
    weights = AngleBisector()(gram)
    torch.testing.assert_close(opt.last.weights, weights, rtol=1e-9, atol=1e-12)
    direction = sum(w * g for w, g in zip(weights, at_z, strict=True))
    factor = 4 if through_join else 1
    for p, g in zip(
        net["trunk"].parameters(), torch.autograd.grad(z, list(net["trunk"].parameters()), direction), strict=True
    ):
        torch.testing.assert_close(factor * p.grad, g, rtol=1e-9, atol=1e-12)
    heads = [*net["left"].parameters(), *net["right"].parameters()]
    for p, g in zip(heads, torch.autograd.grad(sum(forward(net)[1].values()), heads), strict=True):
        torch.testing.assert_close(factor * p.grad, g, rtol=1e-12, atol=0)


def test_the_trunk_is_walked_once() -> None:
    net = network()
    walks: list[Tensor] = []
    net["trunk"][0].register_forward_hook(lambda *out: (out[2].register_hook(walks.append), None)[1])
    opt = wrapped(net, AngleBisector())
    features, losses = forward(net)
    opt.backward(losses, shared=features)
    assert len(walks) == 1


def test_with_sum_it_is_the_plain_gradient() -> None:
    net, plain = network(), network()
    features, losses = forward(net)
    wrapped(net, Sum()).backward(losses, shared=features)
    sum(forward(plain)[1].values()).backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def test_a_nan_in_a_head_reaches_the_trunk() -> None:
    net = network()
    features, losses = forward(net)
    # finite at the features, not at the head's own parameter
    losses["a"] = losses["a"] + net["left"].weight[0, 0] * torch.inf * 0
    wrapped(net, Sum()).backward(losses, shared=features)
    assert all(p.grad.isnan().all() for p in net.parameters())


def test_several_shared_tensors() -> None:
    net, plain = network(), network()
    features, losses = forward(net)
    more = net["trunk"][0](torch.ones(2, 3, dtype=torch.float64))
    wrapped(net, Sum()).backward(losses | {"d": more.square().sum()}, shared=[features, more])
    (
        sum(forward(plain)[1].values()) + plain["trunk"][0](torch.ones(2, 3, dtype=torch.float64)).square().sum()
    ).backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def test_parts_of_one_tensor() -> None:
    """All results of one operation, which are one node of the graph."""
    net, plain = network(), network()
    features, _ = forward(net)
    parts = features.chunk(2, dim=1)
    losses = {"a": parts[0].exp().mean(), "b": (parts[0] * parts[1]).square().mean()}
    wrapped(net, Sum()).backward(losses, shared=parts)
    first, second = forward(plain)[0].chunk(2, dim=1)
    (first.exp().mean() + (first * second).square().mean()).backward()
    for p, q in zip(net["trunk"].parameters(), plain["trunk"].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def test_a_way_round_the_shared_tensors_is_an_error() -> None:
    """By another result of the operation that a shared tensor comes from."""
    net = network()
    features, _ = forward(net)
    left, right = features.chunk(2, dim=1)
    losses = {"a": left.square().mean(), "b": left.exp().mean() + right.square().mean()}
    with pytest.raises(ValueError, match="is used both before and after the shared tensors"):
        wrapped(net, Sum()).backward(losses, shared=left)
    assert all(p.grad is None for p in net.parameters())
    wrapped(net, Sum()).backward(losses, shared=[left, right])


def test_a_shared_tensor_behind_another_is_an_error() -> None:
    """What lies behind both would get the gradient at the first once by itself and once through the second."""
    net = network()
    for shared in (lambda z: [z, z], lambda z: [z, z + 1], lambda z: [(z + 1).sin(), z.chunk(2)[0], z]):
        features, losses = forward(net)
        with pytest.raises(ValueError, match="none of which depends on another"):
            wrapped(net, Sum()).backward(losses, shared=shared(features))
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("how", ["backward", "join"])
@pytest.mark.parametrize("shared_first", [True, False])
def test_a_second_backward_loses_nothing_and_is_taken_after_the_step(how: str, shared_first: bool) -> None:
    net = network()
    opt = wrapped(net, AngleBisector())

    def go(at_features: bool) -> None:
        features, losses = forward(net)
        options = {"shared": features} if at_features else {}
        if how == "join":
            opt.join(losses, **options).backward()
        else:
            opt.backward(losses, **options)

    go(shared_first)
    before = [p.grad.clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match=r"shared= says .* one backward"):
        go(not shared_first)
    for p, grad in zip(net.parameters(), before, strict=True):
        assert torch.equal(p.grad, grad)
    if shared_first:  # else what has accumulated goes on doing so until zero_grad()
        opt.step()
        go(True)
        taken = [p.grad.clone() for p in net.parameters()]
        opt.zero_grad()
        go(True)
        for p, grad in zip(net.parameters(), taken, strict=True):
            assert torch.equal(p.grad, grad)


def test_errors_leave_everything_as_it_was() -> None:
    net = network()
    opt = wrapped(net, AngleBisector())
    features, losses = forward(net)
    with pytest.raises(ValueError, match="with a graph; got one without"):
        opt.backward(losses, shared=features.detach())
    with pytest.raises(ValueError, match="that depend on the parameters of the base optimizer; these do not"):
        opt.backward(losses, shared=torch.ones(2, requires_grad=True) * 2)
    with pytest.raises(ValueError, match="is used both before and after the shared tensors"):
        opt.backward(losses | {"a": losses["a"] + net["trunk"][0].weight.sum()}, shared=features)
    with pytest.raises(ValueError, match=r"the losses \['x'\] depend on; none does"):
        opt.backward({"x": net["left"].weight.sum()}, shared=features)
    assert all(p.grad is None for p in net.parameters())
    opt.backward(losses, shared=features)
    features, losses = forward(net)
    with pytest.raises(RuntimeError, match="shared= says that a step is one backward"):
        opt.backward(losses, shared=features)
    blocks = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum(), blocks="group")
    with pytest.raises(ValueError, match="needs blocks=None and refresh_every=1, got blocks='group'"):
        blocks.backward(losses, shared=features)


class WithoutGradient(torch.autograd.Function):
    """The sum of two tensors, of which the second has no gradient, as some functions leave out what is frozen."""

    @staticmethod
    def forward(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: object, *cotangents: Tensor) -> tuple[Tensor, None]:
        return cotangents[0], None


def test_a_trunk_parameter_without_gradient() -> None:
    """Reached by the graph, and by no gradient: its ``.grad`` stays None, so that nothing decays it."""
    u, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    head = nn.Parameter(torch.ones(2))
    features = WithoutGradient.apply(u, v)
    opt = MultiObjectiveGradient(torch.optim.SGD([u, v, head], lr=0.1), Sum())
    opt.backward({"a": features.sum(), "b": (features * head).sum()}, shared=features)
    assert v.grad is None
    torch.testing.assert_close(u.grad, torch.full((2,), 2.0))
    torch.testing.assert_close(head.grad, torch.full((2,), 2.0))
