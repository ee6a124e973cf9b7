"""Lightning Fabric against the loop by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from gradweight import MultiObjectiveGradient

from .gan import discriminator_losses, gan, gan_by_hand, generator_losses, state_of_gan
from .problem import SlowNorms, assert_same, batches, by_hand, halving, losses, network, wrapped

# raised by Fabric about itself and its environment
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


def fabric(**settings: Any) -> Fabric:
    return Fabric(accelerator="cpu", devices=1, **settings)


@pytest.mark.parametrize(
    ("how", "settings", "like"),
    [
        ("join", {}, {}),
        ("backward", {}, {}),
        ("join", {"precision": "bf16-mixed"}, {"autocast": torch.bfloat16}),
    ],
    ids=["join", "backward", "join, bf16"],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_setup_backward_and_step(how: str, accumulate: int, settings: dict[str, Any], like: dict[str, Any]) -> None:
    host = fabric(**settings)
    net = network()
    opt = wrapped(net, base=torch.optim.SGD)
    schedule = halving(opt)
    model, opt = host.setup(net, opt)
    for i, batch in enumerate(host.setup_dataloaders(DataLoader(batches(), batch_size=None))):
        values = losses(model, *batch)
        if how == "join":
            host.backward(opt.join(values) / accumulate)
        else:
            opt.backward(values)
        if (i + 1) % accumulate == 0:
            host.clip_gradients(model, opt, max_norm=0.5)
            opt.step()
            schedule.step()
            opt.zero_grad()
    expected = by_hand(accumulate=accumulate, clip_norm=0.5, scheduler=halving, base=torch.optim.SGD, **like)
    assert_same(net.state_dict(), expected)


def test_where_fabric_must_go_backward_itself_its_own_error_says_so() -> None:
    host = fabric(precision="bf16-mixed")
    model, opt = host.setup(net := network(), wrapped(net))
    with pytest.raises(RuntimeError, match=r"call `fabric.backward\(loss\)` instead"):
        opt.backward(losses(model, *batches()[0]))


def test_clipping_by_value() -> None:
    host = fabric()
    net = network()
    model, opt = host.setup(net, wrapped(net))
    for batch in batches():
        host.backward(opt.join(losses(model, *batch)))
        host.clip_gradients(model, opt, clip_val=0.05)
        opt.step()
        opt.zero_grad()
    assert_same(net.state_dict(), by_hand(clip_value=0.05))


def test_a_gan_with_two_optimizers() -> None:
    host = fabric()
    generator, discriminator = gan()
    model_g, opt_g = host.setup(generator, wrapped(generator))
    model_d, opt_d = host.setup(discriminator, wrapped(discriminator))
    for z, real in batches():
        for opt, its_losses in ((opt_d, discriminator_losses), (opt_g, generator_losses)):
            opt.zero_grad()
            host.backward(opt.join(its_losses(model_d, real, model_g(z))))
            opt.step()
    assert_same(state_of_gan(generator, discriminator), gan_by_hand())


def test_resuming_from_a_checkpoint_with_a_stateful_rule(tmp_path: Path) -> None:
    def train(host: Fabric, model: nn.Module, opt: MultiObjectiveGradient, part: slice) -> None:
        for batch in batches()[part]:
            host.backward(opt.join(losses(model, *batch)))
            opt.step()
            opt.zero_grad()

    host = fabric()
    whole = network()
    train(host, *host.setup(whole, wrapped(whole, SlowNorms())), slice(None))

    model, opt = host.setup(net := network(), wrapped(net, SlowNorms()))
    train(host, model, opt, slice(7))
    host.save(tmp_path / "checkpoint.ckpt", {"model": model, "opt": opt})

    net = network()
    model, opt = host.setup(net, wrapped(net, SlowNorms()))
    host.load(tmp_path / "checkpoint.ckpt", {"model": model, "opt": opt}, weights_only=True)
    train(host, model, opt, slice(7, None))
    assert_same(net.state_dict(), whole.state_dict(), tolerance=0.0)
