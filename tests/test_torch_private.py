"""Without a private name of torch, steps are what they are with it, or an error says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from gradweight import MultiObjectiveGradient, torch_private
from gradweight.rules import UPGrad


class Missing:
    """An attribute that is not there."""

    def __get__(self, instance: object, owner: object) -> Any:
        raise AttributeError("another release")


NAMES: dict[str, tuple[Any, str]] = {
    "wrapped": (torch._C._functorch, "is_functorch_wrapped_tensor"),
    "stack": (torch._C._functorch, "peek_interpreter_stack"),
    "flatten": (torch._utils, "_flatten_dense_tensors"),
    "use count": (torch.Tensor, "_use_count"),
    "storage": (torch.UntypedStorage, "_cdata"),
    "graph task": (torch._C, "_current_graph_task_id"),
    "keep graph": (torch._C._autograd, "_get_current_graph_task_keep_graph"),
}


def trained(way: Callable[[MultiObjectiveGradient, dict[str, Tensor]], object], **options: Any) -> list[Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=0.1), UPGrad(), **options)
    for _ in range(3):
        y = net(torch.randn(5, 3, dtype=torch.float64))
        opt.zero_grad()
        way(opt, {"a": y[:, 0].mean(), "b": y[:, 1].square().mean(), "c": -y.mean()})
        opt.step()
    return [p.detach().clone() for p in net.parameters()]


WAYS: dict[str, tuple[Callable[[MultiObjectiveGradient, dict[str, Tensor]], object], dict[str, Any]]] = {
    "backward": (lambda opt, losses: opt.backward(losses), {}),
    "in place": (lambda opt, losses: opt.backward(losses), {"accumulate": False}),
    "join": (lambda opt, losses: opt.join(losses).backward(), {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_steps_without_it_are_the_same(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how, options = WAYS[way]
    expected = trained(how, **options)
    owner, attribute = NAMES[name]
    if isinstance(owner, type):
        monkeypatch.setattr(owner, attribute, Missing(), raising=False)
    else:
        monkeypatch.delattr(owner, attribute)
    # array code adds up in another order than host code
    torch.testing.assert_close(trained(how, **options), expected, rtol=1e-9, atol=1e-12)


def test_without_a_callback_there_is_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", object())
    torch_private.at_the_end_of_the_backward_pass(lambda: None)


def test_a_group_that_cannot_be_found_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(distributed_c10d, "_resolve_process_group")
    with pytest.raises(RuntimeError, match="no way to find the process group 'ring' by its name"):
        torch_private.group_named("ring")


def test_what_is_missing_for_graphs_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool", raising=False)
    torch_private.end_allocation(0, (0, 0))
