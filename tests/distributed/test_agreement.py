"""Agreement: the same answer on every process, and no process left waiting."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from gradweight.distributed.agreement import Agreement, Disagreement

from .pool import Pool


def world() -> distributed.ProcessGroup:
    group = distributed.group.WORLD
    assert group is not None
    return group


def settle_same() -> None:
    Agreement(world()).ask({"losses": "['a', 'b']", "parameters": "3"}).settle()


def settle_different() -> str:
    rank = distributed.get_rank()
    asked = Agreement(world()).ask({"parameters": "3", "losses": "['a']" if rank else "['a', 'b']"})
    with pytest.raises(Disagreement) as raised:
        asked.settle()
    return str(raised.value)


def settle_failed() -> str:
    rank = distributed.get_rank()
    asked = Agreement(world()).ask({"losses": str(rank)}, ValueError("no graph") if rank == 1 else None)
    if rank == 1:
        asked.settle()  # who failed raises what it failed with
        return ""
    with pytest.raises(Disagreement) as raised:
        asked.settle()
    return str(raised.value)


def union_of_masks() -> list[list[bool]]:
    rank = distributed.get_rank()
    return Agreement(world()).union([[rank == 0, False], [rank == 1, rank == 0]])


def union_failed() -> str:
    rank = distributed.get_rank()
    error = KeyError("x") if rank == 0 else None
    if error:
        Agreement(world()).union([[True]], error)
        return ""
    with pytest.raises(Disagreement) as raised:
        Agreement(world()).union([[True]], None)
    return str(raised.value)


def without_cpu() -> bool:
    group = distributed.new_group(backend="cuda:gloo")
    agreement = Agreement(group)  # type: ignore[arg-type]
    assert agreement.group is not group
    agreement.ask({"losses": "['a']"}).settle()
    return True


def test_a_group_that_does_not_carry_cpu_tensors_gets_one_beside(pair: Pool) -> None:
    assert all(pair.run(without_cpu))


def with_cpu() -> bool:
    group = distributed.new_group(backend="gloo")
    agreement = Agreement(group)  # type: ignore[arg-type]
    assert agreement.group is group  # which carries CPU tensors as it is
    return bool(torch.tensor(agreement.union([[True, False]])).any())


def with_another_default_device() -> list[list[bool]]:
    with torch.device("meta"):  # what hosts settle stays on the hosts
        settle_same()
        return union_of_masks()


def test_the_default_device_does_not_matter(pair: Pool) -> None:
    assert pair.run(with_another_default_device) == [[[True, False], [True, True]]] * 2


def test_the_same_facts(pair: Pool) -> None:
    pair.run(settle_same)


def test_different_facts_are_listed_on_every_process(pair: Pool) -> None:
    expected = "all processes need the same losses: rank 0 has ['a', 'b']; rank 1 has ['a']"
    assert pair.run(settle_different) == [expected, expected]


def test_an_error_is_told_to_the_others(pair: Pool) -> None:
    first, second = pair.run(settle_failed)
    assert first == "this step was given up on all 2 processes because of rank 1: ValueError: no graph"
    assert second == ""
    assert "rank 0: KeyError: 'x'" in pair.run(union_failed)[1]


def test_union(four: Pool) -> None:
    assert four.run(union_of_masks) == [[[True, False], [True, True]]] * 4


def test_a_group_that_carries_cpu_tensors_is_used_itself(pair: Pool) -> None:
    assert all(pair.run(with_cpu))
