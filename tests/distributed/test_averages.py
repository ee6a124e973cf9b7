"""Averages of gradients: replicated as the parameters are, sharded as they are, and saved and resumed so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from gradweight import MultiObjectiveGradient
from gradweight.linalg.layout import is_sharded
from gradweight.rule import Rule
from gradweight.rules import DBMTL, MConFIG, MoCo
from gradweight.step import proposed_averages

from .pool import Pool
from .problems import NAMES, Net, alone, base, batch, distance, losses_of, network, same_everywhere, share, together

RULES: dict[str, Rule] = {"MConFIG": MConFIG(for_adam=True), "MoCo": MoCo(by_loss=True), "DBMTL": DBMTL()}


def start(rule: str, kind: str) -> tuple[Net, MultiObjectiveGradient]:
    net = network()
    net.unused.requires_grad_(False)
    if kind == "sharded":
        fully_shard(net.trunk)
        fully_shard(net)
        return net, MultiObjectiveGradient(base(net), RULES[rule])
    return net, together(net, RULES[rule]) if kind == "replicated" else alone(net, RULES[rule])


def walk(opt: MultiObjectiveGradient, model: nn.Module, x: Tensor, i: int) -> None:
    """Two micro-batches, one loss due on all but the first step, of which others are None."""
    due = NAMES[i % 3] if i else None
    for part in x.chunk(2):
        losses: dict[str, Tensor | None] = {name: loss / 2 for name, loss in losses_of(model, part).items()}
        if due is not None:
            losses |= {name: None for name in NAMES if name != due}
        opt.backward(losses, due=due)  # type: ignore[arg-type]


def train(opt: MultiObjectiveGradient, model: nn.Module, steps: range, *, whole: bool = False) -> None:
    for i in steps:
        x = batch(i, 4)
        opt.zero_grad()
        walk(opt, model, x if whole else share(x), i)
        opt.step()


def steps(rule: str, kind: str) -> tuple[float, bool]:
    net, opt = start(rule, kind)
    reference, expected = start(rule, "alone")
    train(opt, net, range(5))
    train(expected, reference, range(5), whole=True)
    kept = [v for p in net.trunk.parameters() for k, v in opt.state[p].items() if k.startswith("average")]
    assert len(kept) == 3 * 4
    as_parameters = all(is_sharded(average) == (kind == "sharded") for average in kept)
    return distance(net, reference), as_parameters


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
@pytest.mark.parametrize("rule", RULES)
def test_as_one_process(pair: Pool, rule: str, kind: str) -> None:
    for apart, as_parameters in pair.run(steps, rule, kind):
        assert apart < 1e-10  # sums in another order
        assert as_parameters


def unsynced() -> tuple[float, bool]:
    net, opt = start("MConFIG", "replicated")
    reference, expected = start("MConFIG", "replicated")
    for i in range(4):
        first, last = share(batch(i, 2)).chunk(2)
        for one, model in ((opt, net), (expected, reference)):
            one.zero_grad()
            if one is opt:
                with one.no_sync():
                    one.backward(losses_of(model, first), due=NAMES[i % 3])
            else:
                one.backward(losses_of(model, first), due=NAMES[i % 3])
            one.backward(losses_of(model, last), due=NAMES[i % 3])
            one.step()
    return distance(net, reference), same_everywhere(net)


def test_no_sync(pair: Pool) -> None:
    for apart, same in pair.run(unsynced):
        assert apart < 1e-12
        assert same


def copied_in_place() -> float:
    """As on a GPU, where the tensors of the state stay where they are."""
    before, proposed_averages.is_launch_bound = proposed_averages.is_launch_bound, lambda device: True
    try:
        return steps("MoCo", "sharded")[0]
    finally:
        proposed_averages.is_launch_bound = before


def test_sharded_averages_are_copied_in_place(pair: Pool) -> None:
    assert max(pair.run(copied_in_place)) < 1e-10


def different() -> str:
    net, opt = start("MConFIG", "replicated")
    due = NAMES[distributed.get_rank()]
    try:
        opt.backward(losses_of(net, share(batch(0, 2))), due=due)
    except RuntimeError as error:
        return str(error)
    return ""


def test_processes_with_other_losses_due_are_an_error(pair: Pool) -> None:
    assert all("losses, in one order" in text for text in pair.run(different))


def save(folder: str, rule: str) -> None:
    net, opt = start(rule, "sharded")
    train(opt, net, range(4))
    model, optim = get_state_dict(net, opt)
    dcp.save({"model": model, "optim": optim}, checkpoint_id=folder)


def resume(folder: str, rule: str, kind: str) -> float:
    """How far a resumed run is from one process that was never interrupted."""
    net, opt = start(rule, kind)
    train(opt, net, range(1), whole=kind == "alone")  # a checkpoint fills what is there
    model, optim = get_state_dict(net, opt)
    dcp.load({"model": model, "optim": optim}, checkpoint_id=folder)
    set_state_dict(net, opt, model_state_dict=model, optim_state_dict=optim)
    train(opt, net, range(4, 7), whole=kind == "alone")
    reference, expected = start(rule, "alone")
    train(expected, reference, range(7), whole=True)
    return distance(net, reference)


@pytest.mark.slow
def test_saved_by_two_resumed_by_four_and_by_one(pair: Pool, four: Pool, tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    pair.run(save, folder, "MConFIG")
    assert max(four.run(resume, folder, "MConFIG", "sharded")) < 1e-10
    with pytest.warns(UserWarning, match="assuming the intent is to load in a single process"):
        assert resume(folder, "MConFIG", "alone") < 1e-10
