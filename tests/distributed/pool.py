"""Processes of one gloo group on loopback, which run functions side by side and give back what each returned."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# forked from one process that has imported torch already, instead of importing it in each
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "gradweight"])

LIMIT = 60.0
"""Seconds until a hang is a failure; the slowest of these tests takes two."""


class Pool:
    """``size`` processes that wait for work.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.start()

    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        rendezvous = str(Path(self.folder.name) / "rendezvous")
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(self.size):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(rank, self.size, rendezvous, theirs), daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, dies: tuple[int, ...] = ()) -> list[Any]:
        """``function(*args)`` on every process, inside their group; what each returned, by rank.

        Args:
            function: of a module that can be imported.
            *args: can be pickled.
            dies: ranks that are expected to die on the way; None in the result.

        Raises:
            AssertionError: an exception on some process, or no answer within `LIMIT`.
        """
        for connection in self.connections:
            connection.send((function, args))
        answers: dict[int, tuple[bool, Any]] = dict.fromkeys(dies, (True, None))
        end = time.monotonic() + LIMIT
        while len(answers) < self.size and time.monotonic() < end:
            missing = [c for rank, c in enumerate(self.connections) if rank not in answers]
            for ready in wait(missing, timeout=end - time.monotonic()):
                rank = self.connections.index(ready)  # type: ignore[arg-type]
                try:
                    answers[rank] = self.connections[rank].recv()
                except EOFError:
                    answers[rank] = (False, "the process died")
        silent = sorted(set(range(self.size)) - set(answers))
        failed = {rank: text for rank, (fine, text) in answers.items() if not fine}
        if silent or failed or dies:
            self.stop()
            self.start()
        assert not silent, f"no answer from ranks {silent} within {LIMIT} s; the others: {answers}"
        assert not failed, "\n".join(f"rank {rank}:\n{text}" for rank, text in sorted(failed.items()))
        return [answers[rank][1] for rank in range(self.size)]

    def stop(self) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def _serve(rank: int, size: int, rendezvous: str, connection: Connection) -> None:
    # before CUDA looks: FSDP2 would move its shards to a GPU, and a machine that has one has not got one for each
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=timedelta(seconds=LIMIT / 2)
    )
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        try:
            torch.manual_seed(0)
            answer = (True, function(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        connection.send(answer)
