"""Bytes on the wire, counted on the sockets of a process: (m + 1)k for reduce="scatter" against 2mk for "all"."""

from __future__ import annotations

import os
import socket
import struct
import sys

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from .pool import Pool
from .problems import world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's TCP_INFO")

BYTES_SENT = 200
"""Where tcpi_bytes_sent and tcpi_bytes_retrans, 64 bits each, lie in Linux's struct tcp_info (since 4.19)."""


def sent() -> int:
    """Bytes that the sockets of this process have sent."""
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    once, again = struct.unpack_from("QQ", info, BYTES_SENT)
                    total += once - again
        except OSError:  # it was closed meanwhile
            continue
    return total


def bytes_of_a_step(m: int, settings: dict[str, str]) -> tuple[int, int]:
    """Bytes sent by this process in one step, and the elements of the model."""
    net = nn.Sequential(nn.Linear(300, 500), nn.Tanh(), nn.Linear(500, 300), nn.Tanh(), nn.Linear(300, m))
    if settings.get("reduce") == "sharded":
        fully_shard(net, reshard_after_forward=False)
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    else:
        opt = MultiObjectiveGradient(
            torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), process_group=world(), **settings
        )  # type: ignore[arg-type]
    x = torch.randn(4, 300)
    counts = []
    for _ in range(2):  # the first step also connects
        opt.zero_grad()
        losses = {f"loss {i}": y.square().mean() for i, y in enumerate(net(x).unbind(1))}
        distributed.barrier()
        before = sent()
        opt.backward(losses)
        counts.append(sent() - before)
        opt.step()
    return counts[-1], sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_replicated(four: Pool, reduce: str, m: int) -> None:
    for counted, k in four.run(bytes_of_a_step, m, {"reduce": reduce}):
        rows = 2 * m if reduce == "all" else m + 1
        expected = 4 * rows * k * 3 / 4  # float32, and (n - 1)/n of it leaves a process
        # headers, the agreement on the hosts, the Gram matrix and the losses: some kilobytes
        assert expected < counted < expected + 20_000


@pytest.mark.parametrize("m", [2, 4])
def test_sharded_parameters_exchange_nothing_beside(four: Pool, m: int) -> None:
    """FSDP2's own: for each loss a reduce-scatter, which is an all-reduce under gloo, and, for each but the first, the
    parameters gathered anew, because it drops them after every backward. Beside that a Gram matrix."""
    for counted, k in four.run(bytes_of_a_step, m, {"reduce": "sharded"}):
        expected = 4 * (2 * m + m - 1) * k * 3 / 4
        assert expected < counted < expected + 40_000
