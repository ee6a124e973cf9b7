"""The graphs of several losses: each is freed as soon as no other needs it, and all are walked once."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.gradients.graph import Graph, retain_graphs
from gradweight.rules import Sum

from .test_engines import Watched, assert_same_rows, loss_gradients


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
        assert part.leaves.keys() <= whole[i].leaves.keys()


def test_a_loss_that_reaches_parameters_only_through_what_a_later_one_shares():
    w, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    trunk = w.exp()
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Sum())
    opt.backward({"first": trunk.sum(), "second": trunk.square().sum()})
    assert w.grad is not None
    shared = other.exp()
    with pytest.raises(ValueError, match="the loss 'b' reaches none"):
        opt.backward({"b": shared.sum(), "a": shared.sum() + w.sum()})
