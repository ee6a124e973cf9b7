"""DeepSpeed on two processes, against one: ZeRO through `LossBalancer`, without ZeRO through the wrapper."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import LossBalancer
from gradweight.rules import NormBalance, UPGrad

from .pool import Pool
from .problems import alone, base, batch, distance, losses_of, network, same_everywhere, share, together, world
from .test_hosts import torchrun

pytestmark = pytest.mark.slow  # each process imports it
STEPS, CLIP = 3, 0.05
FLOAT = torch.float32


def initialized(net: nn.Module, optimizer: torch.optim.Optimizer, stage: int) -> Any:
    os.environ["DS_ACCELERATOR"] = "cpu"  # a worker's own
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # which would be compiled here
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": CLIP,
        "zero_optimization": {"stage": stage},
    }
    with torchrun():
        engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
    return engine


def at_outputs(y: Tensor, z: Tensor, x: Tensor) -> dict[str, Tensor]:
    return losses_of(lambda _: (y, z), x)  # type: ignore[arg-type]


def by_balancer(stage: int, where: str) -> tuple[float, bool]:
    net, reference = network(FLOAT), network(FLOAT)
    engine, other = initialized(net, base(net), stage), base(reference)
    everywhere = where == "parameters"
    balance = LossBalancer(UPGrad(), net.parameters() if everywhere else None, process_group=world())
    expected = LossBalancer(UPGrad(), reference.parameters() if everywhere else None, process_group=False)
    for i in range(STEPS):
        x = batch(i, 2, FLOAT)
        mine = share(x)
        if everywhere:
            # what the engine itself returns has hooks that begin its backward pass, at each probe
            loss = balance(losses_of(engine.module, mine))
        else:
            y, z = (tensor.clone() for tensor in engine(mine))
            loss = balance(at_outputs(y, z, mine), at=[y, z])
        engine.backward(loss)
        engine.step()
        y, z = reference(x)
        other.zero_grad()
        expected(at_outputs(y, z, x), at=None if everywhere else [y, z]).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), CLIP)
        other.step()
    return distance(net, reference), same_everywhere(net)


@pytest.mark.parametrize("where", ["parameters", "outputs"])
@pytest.mark.parametrize("stage", [1, 2])
def test_zero_1_and_2(pair: Pool, stage: int, where: str) -> None:
    pytest.importorskip("deepspeed")
    for apart, same in pair.run(by_balancer, stage, where):
        assert same
        assert apart < 1e-6  # float32, averaged in another order


def by_partitions() -> tuple[float, bool, Tensor, Tensor]:
    """ZeRO-3: no process has whole parameters but while their module runs."""
    import deepspeed

    net, reference = network(FLOAT), network(FLOAT)
    engine, other = initialized(net, base(net), 3), base(reference)
    assert all(p.numel() == 0 for p in net.parameters())
    # by lengths, which differ at outputs that are one loss's each
    balance = LossBalancer(NormBalance(), history=STEPS, process_group=world())
    expected = LossBalancer(NormBalance(), history=STEPS, process_group=False)
    with torchrun():
        for i in range(STEPS):
            x = batch(i, 2, FLOAT)
            y, z = (tensor.clone() for tensor in engine(share(x)))
            engine.backward(balance(at_outputs(y, z, share(x)), at=[y, z]))
            engine.step()
            y, z = reference(x)
            other.zero_grad()
            expected(at_outputs(y, z, x), at=[y, z]).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), CLIP)
            other.step()
        with deepspeed.zero.GatheredParameters(list(net.parameters())):
            found = distance(net, reference), same_everywhere(net)
    return *found, *(torch.stack([seen.weights for seen in b.history]) for b in (balance, expected))


def test_zero_3(pair: Pool) -> None:
    pytest.importorskip("deepspeed")
    answers = pair.run(by_partitions)
    for apart, same, weights, expected in answers:
        assert same
        assert apart < 1e-6  # float32, averaged in another order
        assert torch.equal(weights, answers[0][2])
        assert (expected.max(1).values > 1.1 * expected.min(1).values).all()
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)


def by_parameters_of_zero_3() -> str:
    net = network(FLOAT)
    engine = initialized(net, base(net), 3)
    balance = LossBalancer(UPGrad(), net.parameters(), process_group=world())
    with torchrun():
        losses = losses_of(engine.module, share(batch(0, 2, FLOAT)))
        with pytest.raises(ValueError, match="ZeRO-3") as raised:
            balance(losses)
    return str(raised.value)


def test_parameters_of_zero_3_are_an_error(pair: Pool) -> None:
    pytest.importorskip("deepspeed")
    for text in pair.run(by_parameters_of_zero_3):
        assert "pass a copy of what the engine returned, at=output" in text


def by_wrapper() -> tuple[float, bool]:
    net, reference = network(FLOAT), network(FLOAT)
    opt, expected = together(net, UPGrad()), alone(reference, UPGrad())
    engine = initialized(net, opt, 0)
    for i in range(STEPS):
        x = batch(i, 2, FLOAT)
        engine.backward(opt.join(losses_of(engine, share(x))))
        engine.step()
        expected.zero_grad()
        expected.backward(losses_of(reference, x))
        nn.utils.clip_grad_norm_(reference.parameters(), CLIP)
        expected.step()
    return distance(net, reference), same_everywhere(net)


def test_without_zero(pair: Pool) -> None:
    pytest.importorskip("deepspeed")
    for apart, same in pair.run(by_wrapper):
        assert same
        assert apart < 1e-6  # as above


def by_wrapper_under_zero() -> str:
    """ZeRO puts flat masters in place of the parameters that it is given."""
    net = network(FLOAT)
    opt = alone(net, UPGrad())
    engine = initialized(net, opt, 1)
    with pytest.raises(ValueError, match="reaches none") as raised:
        opt.backward(losses_of(engine.module, share(batch(0, 2, FLOAT))))
    return str(raised.value)


def test_the_wrapper_under_zero_is_an_error(pair: Pool) -> None:
    pytest.importorskip("deepspeed")
    for text in pair.run(by_wrapper_under_zero):
        assert "as those of ZeRO and of CPU offload do, takes no wrapper" in text
