"""Consistency: the same answer on every process, and no process left waiting."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from gradweight.distributed.consistency import ConsistencyCheck, RankMismatchError

from .pool import Pool


def world() -> distributed.ProcessGroup:
    group = distributed.group.WORLD
    assert group is not None
    return group


def same_facts() -> None:
    ConsistencyCheck(world()).start({"losses": "['a', 'b']", "parameters": "3"}).wait()


def different_facts() -> str:
    rank = distributed.get_rank()
    pending = ConsistencyCheck(world()).start({"parameters": "3", "losses": "['a']" if rank else "['a', 'b']"})
    with pytest.raises(RankMismatchError) as raised:
        pending.wait()
    return str(raised.value)


def failed_on_one() -> str:
    rank = distributed.get_rank()
    pending = ConsistencyCheck(world()).start({"losses": str(rank)}, ValueError("no graph") if rank == 1 else None)
    if rank == 1:
        pending.wait()  # who failed raises what it failed with
        return ""
    with pytest.raises(RankMismatchError) as raised:
        pending.wait()
    return str(raised.value)


def union_of_masks() -> list[list[bool]]:
    rank = distributed.get_rank()
    return ConsistencyCheck(world()).union([[rank == 0, False], [rank == 1, rank == 0]])


def union_failed() -> str:
    rank = distributed.get_rank()
    error = KeyError("x") if rank == 0 else None
    if error:
        ConsistencyCheck(world()).union([[True]], error)
        return ""
    with pytest.raises(RankMismatchError) as raised:
        ConsistencyCheck(world()).union([[True]], None)
    return str(raised.value)


def without_cpu() -> bool:
    group = distributed.new_group(backend="cuda:gloo")
    check = ConsistencyCheck(group)  # type: ignore[arg-type]
    assert check.group is not group
    check.start({"losses": "['a']"}).wait()
    return True


def test_a_group_that_does_not_carry_cpu_tensors_gets_one_beside(pair: Pool) -> None:
    assert all(pair.run(without_cpu))


def with_cpu() -> bool:
    group = distributed.new_group(backend="gloo")
    check = ConsistencyCheck(group)  # type: ignore[arg-type]
    assert check.group is group  # which carries CPU tensors as it is
    return bool(torch.tensor(check.union([[True, False]])).any())


def with_another_default_device() -> list[list[bool]]:
    with torch.device("meta"):  # what hosts compare stays on the hosts
        same_facts()
        return union_of_masks()


def test_the_default_device_does_not_matter(pair: Pool) -> None:
    assert pair.run(with_another_default_device) == [[[True, False], [True, True]]] * 2


def test_the_same_facts(pair: Pool) -> None:
    pair.run(same_facts)


def test_different_facts_are_listed_on_every_process(pair: Pool) -> None:
    expected = "all processes need the same losses: rank 0 has ['a', 'b']; rank 1 has ['a']"
    assert pair.run(different_facts) == [expected, expected]


def test_an_error_is_told_to_the_others(pair: Pool) -> None:
    first, second = pair.run(failed_on_one)
    assert first == "this step was given up on all 2 processes because of rank 1: ValueError: no graph"
    assert second == ""
    assert "rank 0: KeyError: 'x'" in pair.run(union_failed)[1]


def test_union(four: Pool) -> None:
    assert four.run(union_of_masks) == [[[True, False], [True, True]]] * 4


def test_a_group_that_carries_cpu_tensors_is_used_itself(pair: Pool) -> None:
    assert all(pair.run(with_cpu))
