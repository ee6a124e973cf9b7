"""Blocks: one combination for each, against the rule applied by hand to the block's own gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Sum, from_torchjd


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh())
    return nn.ModuleDict({"trunk": trunk, "left": nn.Linear(4, 1), "right": nn.Linear(4, 1)}).double()


def losses(net: nn.ModuleDict) -> dict[str, Tensor]:
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).view(6, 3)
    features = net["trunk"](x)
    return {"a": net["left"](features).square().mean(), "b": 7 * (net["right"](features) - 1).abs().mean()}


def bisected(net: nn.ModuleDict, names: list[str]) -> dict[str, Tensor]:
    """Theorem 2.1 by hand over the named parameters; a loss that reaches none of them is left out."""
    params = [net.get_parameter(name) for name in names]
    total = [torch.zeros_like(p) for p in params]
    for loss in losses(net).values():
        row = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for p, g in zip(params, row, strict=True)]
        norm = torch.cat([g.flatten() for g in found]).norm()
        if norm > 0:
            total = [t + g / norm for t, g in zip(total, found, strict=True)]
    return dict(zip(names, total, strict=True))


def layers(net: nn.ModuleDict) -> list[list[str]]:
    by_prefix: dict[str, list[str]] = {}
    for name, _ in net.named_parameters():
        by_prefix.setdefault(name.rpartition(".")[0], []).append(name)
    return list(by_prefix.values())


def check(net: nn.ModuleDict, blocks: list[list[str]]) -> None:
    for names in blocks:
        for name, expected in bisected(net, names).items():
            torch.testing.assert_close(net.get_parameter(name).grad, expected, rtol=1e-12, atol=1e-14)


def test_layer_by_layer() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), AngleBisector(), blocks="layer")
    seen = opt.backward(losses(net))
    check(net, layers(net))
    assert list(seen.blocks) == ["trunk.0", "trunk.2", "left", "right"]
    # inner products add up over blocks; weights do not
    whole = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector()).backward(losses(net))
    torch.testing.assert_close(seen.gram, whole.gram, rtol=1e-12, atol=0)
    assert seen.weights.isnan().all()


def test_group_by_group() -> None:
    net = network()
    groups = [{"params": list(net["trunk"].parameters())}, {"params": [*net["left"].parameters()], "lr": 0.01}]
    opt = MultiObjectiveGradient(torch.optim.SGD(groups, lr=0.1), AngleBisector(), blocks="group")
    seen = opt.backward(losses(net) | {"a": losses(net)["a"]})
    names = [n for n, _ in net.named_parameters()]
    check(net, [[n for n in names if n.startswith("trunk")], [n for n in names if n.startswith("left")]])
    assert list(seen.blocks) == ["group 0", "group 1"]


def test_a_function_of_the_name_combines_the_trunk_and_leaves_each_head_alone() -> None:
    net = network()
    opt = MultiObjectiveGradient(
        torch.optim.SGD(net.named_parameters(), lr=0.1),
        AngleBisector(),
        blocks=lambda name: "trunk" if name.startswith("trunk.") else None,
    )
    seen = opt.backward(losses(net))
    check(net, [[n for n, _ in net.named_parameters() if n.startswith("trunk")]])
    for head, loss in (("left", "a"), ("right", "b")):
        plain = torch.autograd.grad(losses(net)[loss], list(net[head].parameters()))
        for p, expected in zip(net[head].parameters(), plain, strict=True):
            torch.testing.assert_close(p.grad, expected, rtol=1e-12, atol=0)
    assert list(seen.blocks) == ["trunk"]
    assert "weight/trunk/a" in seen.as_dict()
    assert "weight/a" not in seen.as_dict()
    assert str(seen).startswith("1 block\n\ntrunk\nloss")


def test_one_block_is_no_blocks() -> None:
    one, none = network(), network()
    with_blocks = MultiObjectiveGradient(
        torch.optim.SGD(one.named_parameters(), lr=0.1), AngleBisector(), blocks=lambda name: "all"
    )
    without = MultiObjectiveGradient(torch.optim.SGD(none.parameters(), lr=0.1), AngleBisector())
    seen, expected = with_blocks.backward(losses(one)), without.backward(losses(none))
    assert torch.equal(seen.blocks["all"].weights, expected.weights)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), none.parameters(), strict=True))


def test_a_nan_in_one_block_reaches_all() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), Sum(), blocks="layer")
    bad = losses(net)
    with torch.no_grad():
        net["left"].bias.fill_(torch.nan)
    opt.backward({"a": losses(net)["a"], "b": bad["b"]})
    assert all(p.grad.isnan().all() for p in net.parameters())


def test_accumulation_is_the_big_batch() -> None:
    twice, once = network(), network()
    opts = [
        MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), AngleBisector(), blocks="layer")
        for net in (twice, once)
    ]
    opts[0].backward({name: loss / 2 for name, loss in losses(twice).items()})
    opts[0].backward({name: loss / 2 for name, loss in losses(twice).items()})
    opts[1].backward(losses(once))
    for p, q in zip(twice.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-13, atol=0)


def test_errors() -> None:
    net = network()
    with pytest.raises(ValueError, match="blocks must be 'group', 'layer', a function of a parameter's name, or None"):
        MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum(), blocks="tensor")  # type: ignore[arg-type]
    unnamed = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum(), blocks="layer")
    with pytest.raises(ValueError, match=r"need names: build the base optimizer from module\.named_parameters"):
        unnamed.backward(losses(net))
    assert all(p.grad is None for p in net.parameters())


class Halved:
    """A coordinate rule that goes wrong on parameters of more than one dimension, from its second step on."""

    def __init__(self) -> None:
        self.wrong = False

    def combine(self, rows: Tensor, /) -> Tensor:
        return rows.sum(0)[:1] if self.wrong and rows.dim() > 2 else rows.sum(0)


def test_a_coordinate_rule_that_fails_in_one_block_leaves_the_others() -> None:
    net = network()
    rule = Halved()
    # the bias' block comes first and would be written before the weight's turn
    opt = MultiObjectiveGradient(
        torch.optim.SGD([(n, p) for n, p in reversed(list(net.named_parameters()))], lr=0.1), rule, blocks=lambda n: n
    )
    opt.backward(losses(net))
    before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    rule.wrong = True
    with pytest.raises(ValueError, match="Halved must return the direction of a parameter"):
        opt.backward(losses(net))
    for p, expected in zip(net.parameters(), before, strict=True):
        assert torch.equal(p.grad, expected)


@pytest.mark.parametrize(
    ("blocks", "error", "match"),
    [
        (
            lambda name: "trunk" if name.startswith("trunk.") else None,
            ValueError,
            r"blocks gave None for every parameter.*the names are '0\.weight', '0\.bias'",
        ),
        (lambda name: 3, TypeError, "blocks must give a str or None for each name; it gave 3 for '0.weight'"),
    ],
)
def test_blocks_that_match_nothing(blocks, error, match):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), Sum(), blocks=blocks)
    x = torch.ones(1, 2)
    with pytest.raises(error, match=match):
        opt.backward({"a": net(x).sum(), "b": net(x).square().sum()})
    assert all(p.grad is None for p in net.parameters())


# ---- a trunk


def test_a_trunk_is_the_peers_backward_for_multi_task_learning() -> None:
    autojac, aggregation = pytest.importorskip("torchjd.autojac"), pytest.importorskip("torchjd.aggregation")
    ours, theirs = network(), network()
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).view(6, 3)
    rule = from_torchjd(aggregation.UPGradWeighting())
    opt = MultiObjectiveGradient(torch.optim.SGD(ours.parameters(), lr=0.1), rule, trunk=ours["trunk"])
    peer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(20):
        opt.zero_grad()
        opt.backward(losses(ours))
        opt.step()

        peer.zero_grad()
        features = theirs["trunk"](x)
        values = [
            theirs["left"](features).square().mean(),
            7 * (theirs["right"](features) - 1).abs().mean(),
        ]
        autojac.mtl_backward(values, features=features)
        autojac.jac_to_grad(theirs["trunk"].parameters(), aggregation.UPGrad())
        peer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("given", [lambda net: net["trunk"], lambda net: net["trunk"].parameters()])
def test_a_trunk_is_a_function_of_the_name(given) -> None:
    one, other = network(), network()
    with_trunk = MultiObjectiveGradient(torch.optim.Adam(one.parameters()), AngleBisector(), trunk=given(one))
    by_name = MultiObjectiveGradient(
        torch.optim.Adam(other.named_parameters()),
        AngleBisector(),
        blocks=lambda name: "trunk" if name.startswith("trunk") else None,
    )
    seen, expected = with_trunk.backward(losses(one)), by_name.backward(losses(other))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    # what the rule was shown, and answered
    assert torch.equal(seen.gram, expected.blocks["trunk"].gram)
    assert torch.equal(seen.weights, AngleBisector()(seen.gram))


def test_a_copy_has_the_trunk_of_the_copied_network() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), trunk=net["trunk"])
    net_copy, opt_copy = copy.deepcopy((net, opt))
    for some, wrapped in ((net, opt), (net_copy, opt_copy)):
        wrapped.backward(losses(some))
    for p, q in zip(net.parameters(), net_copy.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_what_is_no_trunk() -> None:
    net = network()
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="trunk must be the module that all losses share, or its parameters; got str"):
        MultiObjectiveGradient(base, Sum(), trunk="trunk")
    with pytest.raises(TypeError, match=r"got Tensor .for the tensor that it returns there is shared="):
        MultiObjectiveGradient(base, Sum(), trunk=torch.ones(2))
    with pytest.raises(ValueError, match="of its 2 there are none among the base's 8"):
        MultiObjectiveGradient(base, Sum(), trunk=nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"trunk= is one block.* needs blocks=None; got 'layer'"):
        MultiObjectiveGradient(base, Sum(), blocks="layer", trunk=net["trunk"])
    with pytest.raises(ValueError, match="got blocks=a trunk of 4 parameters"):
        MultiObjectiveGradient(base, Sum(), trunk=net["trunk"], refresh_every=2)
