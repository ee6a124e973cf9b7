"""A plain loop, with and without accumulation and a GradScaler: `join` and `backward` against the loop by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient

from ..optimizers import assert_resumes_bit_for_bit
from .gan import discriminator_losses, gan, gan_by_hand, generator_losses, state_of_gan
from .problem import MICRO_BATCHES, SlowNorms, assert_same, batches, by_hand, halving, losses, network, wrapped


def gather(opt: MultiObjectiveGradient, how: str, values: dict[str, Tensor], factor: float = 1.0) -> None:
    if how == "join":
        (opt.join(values) * factor).backward()
    else:
        opt.backward({name: loss * factor for name, loss in values.items()})


@pytest.mark.parametrize("how", ["join", "backward"])
@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_accumulation_by_a_factor_and_without(how: str, divide: bool, accumulate: int) -> None:
    net = network()
    opt = wrapped(net, base=torch.optim.SGD)  # Adam would hide a factor
    for i, batch in enumerate(batches()):
        gather(opt, how, losses(net, *batch), 1 / accumulate if divide else 1.0)
        if (i + 1) % accumulate == 0:
            opt.step()
            opt.zero_grad()
    # the bisector does not see the length of what it is given: backward() of undivided losses is not divided either,
    # while the cotangent of join() says how long .grad would have been in this host
    divide = divide or how == "backward"
    assert_same(net.state_dict(), by_hand(accumulate=accumulate, divide=divide, base=torch.optim.SGD))


@pytest.mark.parametrize("clip", [{"clip_norm": 0.5}, {"clip_value": 0.05}])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_grad_scaler_unscales_clips_and_steps(clip: dict[str, float], accumulate: int) -> None:
    net = network()
    opt = wrapped(net)
    schedule = halving(opt)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, batch in enumerate(batches()):
        scaler.scale(opt.join(losses(net, *batch)) / accumulate).backward()
        if (i + 1) % accumulate:
            continue
        scaler.unscale_(opt)
        if "clip_norm" in clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip["clip_norm"])
        else:
            nn.utils.clip_grad_value_(net.parameters(), clip["clip_value"])
        scaler.step(opt)
        scaler.update()
        schedule.step()
        opt.zero_grad()
    assert_same(net.state_dict(), by_hand(accumulate=accumulate, scheduler=halving, **clip))


def test_grad_scaler_skips_a_step_that_overflows() -> None:
    net = network()
    opt = wrapped(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, batch in enumerate(batches()):
        for overflow in (True, False) if i == 5 else (False,):
            values = losses(net, *batch)
            if overflow:
                values["size"] = values["size"] * torch.tensor(torch.inf)
            scaler.scale(opt.join(values)).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
            assert scaler.get_scale() == (512.0 if i >= 5 else 1024.0)
    assert_same(net.state_dict(), by_hand())


@pytest.mark.parametrize("how", ["join", "backward"])
def test_a_gan_with_two_wrapped_optimizers(how: str) -> None:
    generator, discriminator = gan()
    opt_g, opt_d = wrapped(generator), wrapped(discriminator)
    for z, real in batches():
        for opt, its_losses in ((opt_d, discriminator_losses), (opt_g, generator_losses)):
            opt.zero_grad()
            gather(opt, how, its_losses(discriminator, real, generator(z)))
            opt.step()
    assert_same(state_of_gan(generator, discriminator), gan_by_hand())


def test_joining_while_another_optimizer_has_a_joined_loss_waiting() -> None:
    generator, discriminator = gan()
    opt_g, opt_d = wrapped(generator), wrapped(discriminator)
    z, real = batches()[0]
    fake = generator(z)
    loss_d = opt_d.join(discriminator_losses(discriminator, real, fake))
    loss_g = opt_g.join(generator_losses(discriminator, real, fake))
    # one graph for both, walked by one backward
    (loss_d + loss_g).backward()
    for net, its_losses in ((generator, generator_losses), (discriminator, discriminator_losses)):
        opt = wrapped(net)
        found = {name: p.grad.clone() for name, p in net.named_parameters()}
        opt.zero_grad()
        opt.backward(its_losses(discriminator, real, generator(z)))
        assert_same(found, {name: p.grad for name, p in net.named_parameters()})


def test_without_gradients_join_is_the_plain_sum_and_leaves_nothing_behind() -> None:
    net = network()
    opt = wrapped(net)
    x, y = batches()[0]
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            total = opt.join(losses(net, x, y))
            assert not total.requires_grad
            torch.testing.assert_close(total, sum(losses(net, x, y).values()))
    opt.join(losses(net, x, y)).backward()  # nothing waits from before
    assert opt.last is not None
    assert all(p.grad is not None for p in net.parameters())


def test_a_joined_value_that_is_dropped_without_a_backward_does_not_block_the_next() -> None:
    net = network()
    opt = wrapped(net)
    x, y = batches()[0]
    opt.join(losses(net, x, y))
    loss = opt.join(losses(net, x, y))
    loss.backward()
    assert opt.last is not None


def test_resume_with_a_stateful_rule() -> None:
    def train(net: nn.Module, opt: MultiObjectiveGradient, first: int, last: int) -> None:
        for batch in batches()[first:last]:
            opt.join(losses(net, *batch)).backward()
            opt.step()
            opt.zero_grad()

    assert_resumes_bit_for_bit(network, lambda net: wrapped(net, SlowNorms()), train, 7, MICRO_BATCHES)
