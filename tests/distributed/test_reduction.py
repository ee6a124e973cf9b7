"""Reductions: rows are sent while the next loss is differentiated, and a process keeps its share of them."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from gradweight.rules import AngleBisector

from .pool import Pool
from .problems import batch, losses_of, network, share, together


class Names(TorchDispatchMode):
    """The operations in the order in which they are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def order(reduce: str) -> list[str]:
    net = network()
    opt = together(net, AngleBisector(), reduce=reduce)
    losses = losses_of(net, share(batch(0, 2)))
    with Names() as names:
        opt.backward(losses)
    interesting = {"aten::tanh_backward": "walk", "c10d::allreduce_": "reduce", "c10d::alltoall_base_": "reduce"}
    return [interesting[name] for name in names.seen if name in interesting]


@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_rows_are_sent_while_the_next_loss_is_walked_back(pair: Pool, reduce: str) -> None:
    for events in pair.run(order, reduce):
        # each of three losses goes back through two hyperbolic tangents
        walks = [i for i, event in enumerate(events) if event == "walk"]
        assert len(walks) == 6
        for last, following in ((walks[1], walks[2]), (walks[3], walks[4])):
            assert "reduce" in events[last:following]


def elements_held(reduce: str) -> tuple[int, int]:
    net = network()
    opt = together(net, AngleBisector(), reduce=reduce)
    opt.backward(losses_of(net, share(batch(0, 4))))
    accumulated = opt._step.progress.accumulated
    assert accumulated is not None
    storages = {t.untyped_storage().data_ptr(): t for row in accumulated.rows for t in row if t is not None}
    held = sum(t.untyped_storage().nbytes() // t.element_size() for t in storages.values())
    return held, sum(p.numel() for p in net.parameters())


def test_a_process_holds_a_share_of_every_row(four: Pool) -> None:
    for held, k in four.run(elements_held, "all"):
        assert 3 * k <= held <= 3 * (k + 4)  # a row is filled up to a multiple of the processes
    for held, k in four.run(elements_held, "scatter"):
        assert 3 * k / 4 <= held <= 3 * (k + 4) / 4
