"""Modules that are checkpointed, compiled, cleared by themselves or run as functions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rules import AngleBisector

from .hosts.problem import assert_same, batches, by_hand, losses, network, wrapped


class Checkpointed(nn.Module):
    def __init__(self, net: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant:
            x = x.requires_grad_()  # a reentrant checkpoint gives no gradient at all without one at its input
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_activation_checkpoints_under_join(reentrant: bool, accumulate: int) -> None:
    net = network()
    opt = wrapped(net)
    for i, (x, y) in enumerate(batches()):
        opt.join(losses(Checkpointed(net, reentrant), x, y)).backward()
        if (i + 1) % accumulate == 0:
            opt.step()
            opt.zero_grad()
    assert_same(net.state_dict(), by_hand(accumulate=accumulate, divide=False))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_model_zero_grad_in_place_of_the_optimizer_s_under_join(accumulate: int, set_to_none: bool) -> None:
    net = network()
    opt = wrapped(net, base=torch.optim.SGD)
    for i, batch in enumerate(batches()):
        (opt.join(losses(net, *batch)) / accumulate).backward()
        if (i + 1) % accumulate == 0:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            net.zero_grad(set_to_none=set_to_none)
    assert_same(net.state_dict(), by_hand(accumulate=accumulate, clip_norm=0.5, base=torch.optim.SGD))


HOW = pytest.mark.parametrize("how", ["backward", "join"])


def gather(opt: MultiObjectiveGradient, how: str, values: dict[str, Tensor]) -> None:
    opt.join(values).backward() if how == "join" else opt.backward(values)


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@HOW
def test_a_compiled_module(how: str, compiler: None) -> None:
    net = network()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    opt = wrapped(net)
    for batch in batches():
        opt.zero_grad()
        gather(opt, how, losses(compiled, *batch))
        opt.step()
    assert_same(net.state_dict(), by_hand())


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 8), nn.Tanh())
        self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"a": (self.a(features) - y).square().mean(), "b": 30 * (self.b(features) + y).abs().mean()}


@HOW
@pytest.mark.parametrize("what", ["trunk", "model"])
def test_a_compiled_trunk_with_two_heads(what: str, how: str, compiler: None) -> None:
    """Both losses walk one compiled backward, the first with retain_graph: the compiler must hear of it in time."""

    def run(compiled: bool) -> dict[str, Tensor]:
        model = TwoHeads()
        if compiled and what == "trunk":
            model.trunk = torch.compile(model.trunk, backend="aot_eager", fullgraph=True)
        function = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled and what == "model" else model
        opt = wrapped(model)
        for batch in batches()[:4]:
            opt.zero_grad()
            gather(opt, how, function(*batch))
            opt.step()
        return {name.replace("_orig_mod.", ""): p for name, p in model.state_dict().items()}

    assert_same(run(True), run(False))


@HOW
def test_a_trunk_that_was_compiled_for_a_single_walk_says_what_to_set(how: str, compiler: None) -> None:
    """The compiler reuses ("donates") saved buffers once it has seen a backward without retain_graph."""
    model = TwoHeads()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    batch = batches()[0]
    torch.stack(list(compiled(*batch).values())).sum().backward()  # a plain warm-up step
    opt = wrapped(model)
    with pytest.raises(RuntimeError, match="donated_buffer = False"):
        gather(opt, how, compiled(*batch))

    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        torch.stack(list(compiled(*batch).values())).sum().backward()
        opt.zero_grad()  # or the plain gradients would be added
        gather(opt, how, compiled(*batch))
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    opt.zero_grad()
    opt.backward(model(*batch))
    assert_same(found, {name: p.grad for name, p in model.named_parameters()})


def test_functions_of_the_parameters_need_no_enabled_gradients() -> None:
    """Validation runs under no_grad; what the functional forms differentiate, they record themselves."""
    net = network()
    x, y = batches()[0]
    params = {name: p.detach() for name, p in net.named_parameters()}

    def of_params(params: dict[str, Tensor]) -> dict[str, Tensor]:
        return losses(lambda x: torch.func.functional_call(net, params, (x,)), x, y)

    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), AngleBisector())
    opt.backward(losses(net, x, y))
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    opt.zero_grad()
    with torch.no_grad():
        direction, _ = combined_grad(of_params, AngleBisector())(params)
        opt.backward(of_params)
    assert_same(direction, expected)
    assert_same({name: p.grad for name, p in net.named_parameters()}, expected)
