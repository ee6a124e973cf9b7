"""Every engine gives the rows of a hand-written loop, with no forward or backward more than that needs."""

import copy
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import Function
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.gradients import engines
from gradweight.gradients.graph import Graph, retain_graphs
from gradweight.rules import Constant, Sum


def loss_gradients(losses, params, **options):
    """All backward passes run, and the rows in a list."""
    found = engines.loss_gradients(losses, params, **options)
    return replace(found, rows=list(found.rows))


ENGINES_OF = {
    "tensors": ("autograd", "hooks", "auto"),
    "functions": ("autograd", "func", "hooks", "auto"),
    "one function": ("autograd", "func", "hooks", "auto"),
}
CASES = [(form, engine) for form, engines in ENGINES_OF.items() for engine in engines]


class Trunk(nn.Module):
    """A shared trunk and one head per loss; counts its forwards."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, width), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(heads))
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        features = self.trunk(x)
        return [head(features) for head in self.heads]


def losses_in(form, net, x, losses):
    """``losses``, functions of the network's outputs, in one of the three forms that backward takes."""
    if form == "tensors":
        outputs = net(x)
        return {name: loss(outputs) for name, loss in losses.items()}
    if form == "functions":
        return {name: lambda p, loss=loss: loss(functional_call(net, p, (x,))) for name, loss in losses.items()}

    def one(p):
        outputs = functional_call(net, p, (x,))
        return {name: loss(outputs) for name, loss in losses.items()}

    return one


def reference_rows(net, x, losses):
    rows = []
    for loss in losses.values():
        alone = copy.deepcopy(net)
        loss(alone(x)).backward()
        rows.append([p.grad for p in alone.parameters()])
    return rows


def rows_of(net, losses, engine, **options):
    names, params = zip(*((n, p) for n, p in net.named_parameters() if p.requires_grad), strict=True)
    return loss_gradients(losses, params, names=names, engine=engine, **options)


def assert_same_rows(found, expected, **tolerance):
    for row, reference in zip(found, expected, strict=True):
        assert [t is None for t in row] == [t is None for t in reference]
        for t, r in zip(row, reference, strict=True):
            if t is not None:
                torch.testing.assert_close(t, r, **tolerance)


@given(
    width=st.integers(1, 5),
    reads=st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=1, max_size=6),
    seed=st.integers(0, 2**16),
)
def test_engines_and_forms_agree_with_a_loop(width, reads, seed):
    """Losses 1 to 6 in number, each of them reading some of the heads and skipping the others."""
    torch.manual_seed(seed)
    net, x = Trunk(width, 3).double(), torch.randn(4, 3, dtype=torch.float64)
    losses = {
        f"loss{i}": lambda out, some=some, i=i: sum((out[k] - i).square().mean() for k in some)
        for i, some in enumerate(reads)
    }
    expected = reference_rows(net, x, losses)
    for form, engine in CASES:
        found = rows_of(net, losses_in(form, net, x, losses), engine)
        assert found.names == tuple(losses)
        assert_same_rows(found.rows, expected, rtol=1e-12, atol=1e-14)
        for value, loss in zip(found.losses, losses.values(), strict=True):
            assert not value.requires_grad
            torch.testing.assert_close(value, loss(net(x)).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("form", "engine"), CASES)
def test_scale_multiplies_the_gradients_and_not_the_losses(form, engine):
    net, x = Trunk(4, 2).double(), torch.randn(5, 3, dtype=torch.float64)
    losses = {"a": lambda out: out[0].square().mean(), "b": lambda out: out[1].exp().mean()}
    found = rows_of(net, losses_in(form, net, x, losses), engine, scale=torch.tensor(1024.0))
    scaled = [[None if t is None else 1024 * t for t in row] for row in reference_rows(net, x, losses)]
    assert_same_rows(found.rows, scaled, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack(found.losses), torch.stack([f(net(x)).detach() for f in losses.values()]))


@pytest.mark.parametrize(("form", "engine"), CASES)
def test_one_forward_for_a_trunk_and_one_per_function(form, engine):
    net, x = Trunk(4, 3), torch.randn(5, 3)
    losses = {str(i): lambda out, i=i: out[i].square().mean() for i in range(3)}
    rows_of(net, losses_in(form, net, x, losses), engine)
    assert net.forwards == (3 if form == "functions" else 1)


class Watched(Function):
    """The identity; tells ``log`` when a gradient passes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, log, label):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.log, ctx.label = inputs

    @staticmethod
    def backward(ctx, gradient):
        ctx.log(ctx.label)
        return gradient, None, None


@pytest.mark.parametrize(("form", "engine"), CASES)
def test_no_backward_through_a_graph_that_the_loss_does_not_touch(form, engine):
    """Three branches on a trunk: each branch sees one gradient, the trunk one per loss."""
    passed = []

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            trunk = Watched.apply(self.w * x, passed.append, "trunk")
            return [Watched.apply(trunk * (i + 1), passed.append, f"branch {i}") for i in range(3)]

    losses = {str(i): lambda out, i=i: out[i].sum() for i in range(3)}
    net = Branches()
    rows_of(net, losses_in(form, net, torch.ones(3), losses), engine)
    assert sorted(passed) == ["branch 0", "branch 1", "branch 2", "trunk", "trunk", "trunk"]


class _Box:
    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
@pytest.mark.parametrize("retain_graph", [False, True])
def test_a_graph_is_freed_before_the_next_loss_unless_it_must_be_kept(engine, retain_graph):
    w, alive_at_b = nn.Parameter(torch.ones(3)), []
    boxes = []

    def pack(tensor):
        box = _Box(tensor)
        boxes.append(weakref.ref(box))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        a = w.exp().sin().sum()
    assert len(boxes) == 2
    assert all(box() is not None for box in boxes)
    b = Watched.apply(w.sum(), lambda _: alive_at_b.append(sum(box() is not None for box in boxes)), "b")
    loss_gradients({"a": a, "b": b}, [w], names=None, engine=engine, retain_graph=retain_graph)
    assert alive_at_b == [2 if retain_graph else 0]


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_a_graph_that_a_later_loss_shares_is_kept_until_then(engine):
    """a and c share a trunk, b between them has its own graph: b is freed at once and a's trunk after c."""
    w = nn.Parameter(torch.ones(3))
    trunk = w.exp()
    losses = {"a": trunk.sin().sum(), "b": w.cos().sum(), "c": trunk.square().sum()}
    found = loss_gradients(losses, [w], names=None, engine=engine)
    e = torch.ones(3).exp()
    assert_same_rows(found.rows, [[e.cos() * e], [-torch.ones(3).sin()], [2 * e * e]])
    for loss in losses.values():
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, w)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_retain_graph_lets_the_losses_be_used_again(engine):
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=1.0), Sum(), engine=engine)
    losses = {"a": w.square().sum(), "b": w.exp().sum()}
    opt.backward(losses, retain_graph=True)
    once = w.grad.clone()
    opt.backward(losses)
    torch.testing.assert_close(w.grad, 2 * once, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        opt.backward(losses)


def test_one_tensor_under_two_names():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    loss = w.square().sum()
    found = loss_gradients({"a": loss, "b": loss}, [w], names=None, engine="auto")
    assert_same_rows(found.rows, [[2 * w.detach()], [2 * w.detach()]])


def test_a_parameter_that_is_itself_the_loss():
    log_variance = nn.Parameter(torch.tensor(0.5))
    found = loss_gradients(
        {"a": log_variance, "b": log_variance.exp()}, [log_variance], names=None, engine="auto", scale=torch.tensor(4.0)
    )
    assert_same_rows(found.rows, [[torch.tensor(4.0)], [4 * torch.tensor(0.5).exp()]])


class WithAttribute(Function):
    """A user's function may keep anything on its context, under any name: the node of the graph is that context."""

    @staticmethod
    def forward(ctx, x, name, value):
        setattr(ctx, name, value)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient, None, None


@pytest.mark.parametrize(("name", "value"), [("variable", 3), ("name", "mine")])
def test_a_custom_function_that_names_an_attribute_like_one_of_the_graph(name, value):
    w = nn.Parameter(torch.ones(2))
    found = loss_gradients({"a": WithAttribute.apply(w, name, value).sum()}, [w], names=None, engine="autograd")
    assert_same_rows(found.rows, [[torch.full((2,), 3.0)]])


@pytest.mark.parametrize(("form", "engine"), CASES)
def test_batch_norm_in_training(form, engine):
    """Gradients as alone, running statistics updated once; torch.func refuses to update buffers, and says so."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    losses = {"a": lambda out: out[:, 0].square().mean(), "b": lambda out: out[:, 1].exp().mean()}
    expected = reference_rows(net, x, losses)
    alone = copy.deepcopy(net)
    alone(x)
    if form != "tensors" and engine in ("auto", "func"):
        with pytest.raises(RuntimeError, match="in-place operation"):
            rows_of(net, losses_in(form, net, x, losses), engine)
        return
    assert_same_rows(rows_of(net, losses_in(form, net, x, losses), engine).rows, expected, rtol=1e-10, atol=1e-12)
    if form != "functions":
        torch.testing.assert_close(net[1].running_mean, alone[1].running_mean)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x):
        x = self.first(x)
        x = x.tanh() if self.reentrant is None else checkpoint(torch.tanh, x, use_reentrant=self.reentrant)
        return self.last(
            self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        )


CHECKPOINT_LOSSES = {"a": lambda out: out[:, 0].square().mean(), "b": lambda out: out[:, 1].exp().mean()}


@pytest.mark.parametrize("engine", ["auto", "hooks", "autograd"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints_never_give_silent_zeros(engine, reentrant):
    net, plain = Checkpointed(reentrant), Checkpointed(None)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(5, 3)
    losses = losses_in("tensors", net, x, CHECKPOINT_LOSSES)
    if reentrant and engine == "autograd":
        with pytest.raises(RuntimeError, match=r"engine='autograd' cannot see through .*use_reentrant=False.*'hooks'"):
            rows_of(net, losses, engine)
        return
    assert_same_rows(rows_of(net, losses, engine).rows, reference_rows(plain, x, CHECKPOINT_LOSSES))


@pytest.mark.parametrize("form", ["functions", "one function"])
def test_the_func_engine_refuses_a_reentrant_checkpoint(form):
    net = Checkpointed(True)
    with pytest.raises(RuntimeError):
        rows_of(net, losses_in(form, net, torch.randn(5, 3), CHECKPOINT_LOSSES), "func")


def test_hooks_leave_grad_as_it_was():
    w = nn.Parameter(torch.ones(2))
    w.grad = before = torch.full((2,), 7.0)
    loss_gradients({"a": w.exp().sum(), "b": w.sum()}, [w], names=None, engine="hooks")
    assert w.grad is before
    torch.testing.assert_close(before, torch.full((2,), 7.0), rtol=0, atol=0)


# ---- where functions get the parameters' names from


def _half(net, x):
    return lambda p: {"a": functional_call(net, p, (x,)).mean(), "b": functional_call(net, p, (x,)).square().mean()}


@pytest.mark.parametrize("source", ["base", "params pairs", "params mapping", "groups"])
def test_names_come_from_the_base_or_from_params(source):
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    named = list(net.named_parameters())
    base, params = {
        "base": (torch.optim.SGD(named, lr=0.1), None),
        "groups": (torch.optim.SGD([{"params": [named[0]]}, {"params": [named[1]], "lr": 0.2}], lr=0.1), None),
        "params pairs": (torch.optim.SGD(net.parameters(), lr=0.1), iter(named)),
        "params mapping": (torch.optim.SGD(net.parameters(), lr=0.1), dict(named)),
    }[source]
    opt = MultiObjectiveGradient(base, Constant({"a": 1.0, "b": 2.0}), params=params)
    opt.backward(_half(net, x))
    found = [p.grad.clone() for p in net.parameters()]
    opt.zero_grad()
    (net(x).mean() + 2 * net(x).square().mean()).backward()
    torch.testing.assert_close(found, [p.grad for p in net.parameters()])


def test_a_frozen_parameter_is_not_among_those_that_a_function_receives():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    net.bias.requires_grad_(False)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), Sum())
    seen = []
    opt.backward(lambda p: seen.append(sorted(p)) or {"a": functional_call(net, p, (x,)).mean()})
    assert seen == [["weight"]]
    assert net.bias.grad is None


def test_names_must_be_known_for_functions():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum())
    with pytest.raises(ValueError, match=r"need parameter names.*module.named_parameters\(\)"):
        opt.backward(_half(net, x))
    with pytest.raises(ValueError, match=r"params must name every parameter of the base.*\(2, 3\)"):
        MultiObjectiveGradient(opt.base, Sum(), params=[("bias", net.bias)])


def test_two_parameters_of_one_name_are_an_error():
    """Two modules in two groups may both have a 'weight': a function could not tell them apart."""
    a, b = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    params = [*a.named_parameters(), *b.named_parameters()]
    base = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="weight"):
        MultiObjectiveGradient(base, Sum(), params=params).backward(lambda p: {"a": p["weight"].sum()})
    assert a.weight.grad is None
    assert b.weight.grad is None


# ---- the graphs of several losses, walked once


@given(st.data())
def test_graphs_walked_once_tell_what_each_walked_by_itself_tells(data):
    """A random chain of layers with losses that leave it anywhere, some of them on other parameters."""
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(4)]
    tensors = [params[0] * 1]
    for _ in range(data.draw(st.integers(0, 6))):
        tensors.append(data.draw(st.sampled_from(tensors)) * data.draw(st.sampled_from(params)))
    tensors.append(params[3] * 2)
    losses = [data.draw(st.sampled_from(tensors)).sum() for _ in range(data.draw(st.integers(1, 5)))]
    whole, parts = [Graph.of(loss) for loss in losses], Graph.of_each(losses)
    assert [part.shared for part in parts] == retain_graphs(whole, False)
    nodes = [node for part in parts for node in part.nodes]
    assert len(nodes) == len(set(nodes))
    assert set(nodes) == set().union(*(graph.nodes for graph in whole))
    for i, part in enumerate(parts):
        later = set().union(*(graph.nodes for graph in whole[i + 1 :]))
        assert part.nodes == whole[i].nodes - later
        assert part.leaves <= whole[i].leaves


def test_a_loss_that_reaches_parameters_only_through_what_a_later_one_shares():
    w, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    trunk = w.exp()
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Sum())
    opt.backward({"first": trunk.sum(), "second": trunk.square().sum()})
    assert w.grad is not None
    shared = other.exp()
    with pytest.raises(ValueError, match="the loss 'b' reaches none"):
        opt.backward({"b": shared.sum(), "a": shared.sum() + w.sum()})
