"""Every engine gives the rows of a hand-written loop, with no forward or backward more than that needs."""

import copy
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
from gradweight.rules import Sum


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
        with pytest.raises(RuntimeError, match="batch normalization"):
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


@pytest.mark.parametrize(
    ("engine", "custom"),
    [(engine, False) for engine in ("auto", "autograd", "batched", "hooks")] + [("auto", True), ("hooks", True)],
)
@pytest.mark.parametrize("how", ["backward", "join"])
def test_leaves_of_other_optimizers_keep_their_grad(how, engine, custom):
    """An encoder and a decoder with an optimizer each: what is to train both belongs into one wrapper."""
    u, v, w = (nn.Parameter(torch.ones(2)) for _ in range(3))
    v.grad = before = torch.full((2,), 7.0)
    opt = MultiObjectiveGradient(torch.optim.SGD([u], lr=0.1), Sum(), engine=engine)
    product = Doubled.apply(u) * v if custom else 2 * u * v
    losses = {"a": product.sum(), "b": (product * w).sum()}
    if how == "backward":
        opt.backward(losses)
    else:
        opt.join(losses).backward()
    assert u.grad.tolist() == [4, 4]
    assert v.grad is before
    assert before.tolist() == [7, 7]
    assert w.grad is None


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, *gradients):
        return 2 * gradients[0]
