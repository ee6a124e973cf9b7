"""Consistency: what the processes of a group compare on their hosts before and after they reduce gradients."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp, Work

__all__ = ["ConsistencyCheck", "PendingCheck", "RankMismatchError"]


class RankMismatchError(RuntimeError):
    """Some process of the group cannot go on as the others would; every process raises."""


class ConsistencyCheck:
    """All-reduces of small CPU tensors, by which the processes of a group compare what they do without a host sync.

    Args:
        group: the processes. If it cannot carry CPU tensors, a gloo group of the same ranks is made for them.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.size = distributed.get_world_size(group)
        self.group = group
        if "cpu:" not in distributed.get_backend_config(group):  # NCCL alone
            ranks = distributed.get_process_group_ranks(group)
            made = distributed.new_group(ranks, backend="gloo", use_local_synchronization=True)
            assert isinstance(made, ProcessGroup)
            self.group = made

    def start(self, facts: Mapping[str, str], error: BaseException | None = None) -> PendingCheck:
        """Begin to check that all have the same ``facts`` (title -> text) and none an ``error``."""
        # three numbers whatever the facts are, or processes that differ could not even say so; the largest of x and of
        # -x together tell whether all x are the same
        combined = _hash("\n".join(f"{title}: {text}" for title, text in facts.items()))
        numbers = torch.tensor([error is not None, combined, -combined], dtype=torch.int64, device="cpu")
        return PendingCheck(self, dict(facts), error, numbers, self._largest(numbers))

    def union(self, masks: list[list[bool]], error: BaseException | None = None) -> list[list[bool]]:
        """Where any process has True; the masks have one shape on all of them.

        Raises:
            RankMismatchError: another process had an ``error``; who has one itself is to raise that.
        """
        hits = [error is not None, *(hit for mask in masks for hit in mask)]
        flat = torch.tensor(hits, dtype=torch.uint8, device="cpu")
        work = self._largest(flat)
        assert work is not None
        work.wait()
        if flat[0]:
            self.explain({}, error)
        found = iter(flat[1:].bool().tolist())
        return [[next(found) for _ in mask] for mask in masks]

    def explain(self, facts: Mapping[str, str], error: BaseException | None) -> None:
        """Exchange the facts and errors in full, and raise what is wrong, except where the error is known already."""
        answers: list[Any] = [None] * self.size
        said = None if error is None else f"{type(error).__name__}: {error}"
        distributed.all_gather_object(answers, (said, dict(facts)), group=self.group)
        if error is not None:
            return
        failed = [f"rank {rank}: {said}" for rank, (said, _) in enumerate(answers) if said is not None]
        if failed:
            raise RankMismatchError(
                f"this step was given up on all {self.size} processes because of " + "; ".join(failed)
            )
        titles = dict.fromkeys(title for _, theirs in answers for title in theirs)
        # what all have first: who is at another kind of call lacks some, though they may well be the same
        for title in sorted(titles, key=lambda title: any(title not in theirs for _, theirs in answers)):
            by_rank = [theirs.get(title, "none") for _, theirs in answers]
            if len(set(by_rank)) > 1:
                listed = "; ".join(f"rank {rank} has {text}" for rank, text in enumerate(by_rank))
                raise RankMismatchError(f"all processes need the same {title}: {listed}")

    def _largest(self, numbers: Tensor) -> Work | None:
        return distributed.all_reduce(numbers, op=ReduceOp.MAX, group=self.group, async_op=True)  # type: ignore[no-any-return]


class PendingCheck:
    """A check under way."""

    def __init__(
        self,
        check: ConsistencyCheck,
        facts: dict[str, str],
        error: BaseException | None,
        numbers: Tensor,
        work: Work | None,
    ) -> None:
        self.check = check
        self.facts = facts
        self.error = error
        self.numbers = numbers
        self.work = work

    def wait(self) -> None:
        """Wait for the result.

        Raises:
            RankMismatchError: the facts differ, or another process has an error; who has one itself is to raise that.
        """
        if self.work is None:
            return
        self.work.wait()
        self.work = None
        failed, largest, minus_smallest = self.numbers.tolist()
        if failed or largest != -minus_smallest:
            self.check.explain(self.facts, self.error)


@functools.lru_cache(maxsize=256)  # the same few texts step after step, some of them long
def _hash(text: str) -> int:
    # 62 bits, so that the negative fits int64 as well
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2
