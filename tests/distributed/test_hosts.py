"""Training frameworks on two processes, which wrap the module in DDP and call backward themselves."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from gradweight import MultiObjectiveGradient
from gradweight.rules import UPGrad

from .pool import Pool
from .problems import Net, alone, base, batch, distance, losses_of, network, same_everywhere, share, together, world

STEPS, MICRO = 3, 2


@contextmanager
def torchrun() -> Iterator[None]:
    """The environment that torchrun sets, by which frameworks learn that they are one of several."""
    rank, size = str(distributed.get_rank()), str(distributed.get_world_size())
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29499",  # the group exists already, nobody connects
        "TORCHELASTIC_RUN_ID": "test",
        "ACCELERATE_USE_CPU": "true",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the frameworks' own
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def expected(steps: int) -> nn.Module:
    reference = network()
    opt = alone(reference, UPGrad())
    for i in range(steps):
        opt.zero_grad()
        for micro in range(MICRO):
            (opt.join(losses_of(reference, batch(MICRO * i + micro, 2))) / MICRO).backward()
        opt.step()
    return reference


def by_accelerate() -> tuple[float, bool]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    with torchrun():
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=MICRO)
        assert accelerator.num_processes == 2
        net = network()
        opt = together(net, UPGrad())
        model, prepared = accelerator.prepare(net, opt)
        assert isinstance(model, DistributedDataParallel)
        for i in range(STEPS):
            for micro in range(MICRO):
                with accelerator.accumulate(model):
                    accelerator.backward(opt.join(losses_of(model, share(batch(MICRO * i + micro, 2)))))
                    prepared.step()
                    prepared.zero_grad()
        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()
    return distance(net, expected(STEPS)), same_everywhere(net)


def by_lightning() -> tuple[float, bool]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def configure_optimizers(self) -> MultiObjectiveGradient:
            return MultiObjectiveGradient(base(self.net), UPGrad(), process_group=world())

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            opt: Any = self.optimizers(use_pl_optimizer=False)
            loss: Tensor = opt.join(losses_of(self.net, batch[0]))
            return loss

    samples = torch.cat([share(batch(i, 2)) for i in range(MICRO * STEPS)])
    with torchrun(), tempfile.TemporaryDirectory() as folder:
        module = Module()
        trainer = lightning.Trainer(
            accelerator="cpu",
            strategy="ddp_find_unused_parameters_true",
            devices=2,
            max_epochs=1,
            accumulate_grad_batches=MICRO,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, DataLoader(TensorDataset(samples), batch_size=len(share(batch(0, 2)))))
        assert trainer.world_size == 2
    return distance(module.net, expected(STEPS)), same_everywhere(module.net)


def by_transformers() -> tuple[float, bool]:
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers import Trainer, TrainingArguments

    class MultiObjectiveTrainer(Trainer):
        opt: MultiObjectiveGradient

        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            assert isinstance(model, DistributedDataParallel)
            return self.opt.join(losses_of(model, inputs["x"]))

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    # of each two batches in turn the Trainer gives one to either process
    samples = [{"x": x} for i in range(MICRO * STEPS) for x in batch(i, 2)]
    with torchrun(), tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=len(share(batch(0, 2))),
            gradient_accumulation_steps=MICRO,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        net = network()
        opt = together(net, UPGrad())
        trainer = MultiObjectiveTrainer(net, arguments, train_dataset=samples, optimizers=(opt, None))
        trainer.opt = opt
        trainer.train()
        assert arguments.world_size == 2
        assert trainer.state.global_step == STEPS
        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()
    return distance(net, expected(STEPS)), same_everywhere(net)


@pytest.mark.parametrize("host", [by_accelerate, by_lightning, by_transformers])
def test_hosts(pair: Pool, host: Any) -> None:
    for apart, same in pair.run(host):
        assert same
        assert apart < 1e-12


def reentrant() -> tuple[float, bool]:
    """Only ``.backward()`` goes through reentrant checkpoints; a forward in DDP's no_sync() keeps DDP out of it."""

    def forward(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        features = checkpoint(net.trunk, x.clone().requires_grad_(), use_reentrant=True)
        return net.first(features), net.second(features)

    net, reference = network(), network()
    net.forward = functools.partial(forward, net)  # type: ignore[method-assign]
    reference.forward = functools.partial(forward, reference)  # type: ignore[method-assign]
    ddp = DistributedDataParallel(net)
    opt, by_one = together(net, UPGrad()), alone(reference, UPGrad())
    for i in range(3):
        x = batch(i, 2)
        opt.zero_grad()
        with ddp.no_sync():
            losses = losses_of(ddp, share(x))
        opt.backward(losses)
        opt.step()
        by_one.zero_grad()
        by_one.backward(losses_of(reference, x))
        by_one.step()
    return distance(net, reference), same_everywhere(net)


def test_reentrant_checkpoints_in_ddp(pair: Pool) -> None:
    for apart, same in pair.run(reentrant):
        assert same
        assert apart < 1e-12
