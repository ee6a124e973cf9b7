"""The Hugging Face Trainer against the loop by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule

from .problem import BATCH_SIZE, SlowNorms, assert_same, batches, by_hand, halving, losses, network, several, wrapped


class Model(nn.Module):
    """Its forward returns the named losses."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return losses(self.net, x, y)


class MultiObjectiveTrainer(Trainer):
    # the Trainer wraps self.optimizer when it prepares it: join is on the one that it was given
    opt: MultiObjectiveGradient

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        values = model(**inputs)
        loss = self.opt.join(values)
        return (loss, values) if return_outputs else loss

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(
    folder: Path, rule: Rule | None = None, base: Any = torch.optim.Adam, **settings: Any
) -> MultiObjectiveTrainer:
    model = Model()
    opt = wrapped(model, rule, base)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        use_cpu=True,
        report_to=[],
        label_names=["y"],
        disable_tqdm=True,
        **({"num_train_epochs": 1, "save_strategy": "no", "max_grad_norm": 0.0} | settings),
    )
    samples = [{"x": x[i], "y": y[i]} for x, y in batches() for i in range(BATCH_SIZE)]
    host = MultiObjectiveTrainer(
        model=model, args=arguments, train_dataset=samples, eval_dataset=samples, optimizers=(opt, halving(opt))
    )
    host.opt = opt
    return host


@pytest.mark.parametrize(
    ("settings", "like"),
    [
        ({}, {}),
        ({"max_grad_norm": 0.5}, {"clip_norm": 0.5}),
        ({"gradient_accumulation_steps": 3}, {"accumulate": 3}),
        ({"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}, {"accumulate": 2, "clip_norm": 0.5}),
        ({"bf16": True}, {"autocast": torch.bfloat16}),
    ],
    ids=["plain", "clip", "accumulate", "accumulate, clip", "bf16"],
)
def test_the_trainer(tmp_path: Path, settings: dict[str, Any], like: dict[str, Any]) -> None:
    host = trainer(tmp_path, base=torch.optim.SGD, **settings)
    host.train()
    assert_same(host.model.net.state_dict(), by_hand(scheduler=halving, base=torch.optim.SGD, **like))


def test_the_loss_that_is_reported_is_the_plain_sum(tmp_path: Path) -> None:
    host = trainer(tmp_path)
    host.train()
    metrics = host.evaluate()
    with torch.no_grad():
        mean = sum(float(sum(losses(host.model.net, *batch).values())) for batch in batches()) / len(batches())
    assert metrics["eval_loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("rule", [None, SlowNorms()], ids=["AngleBisector", "SlowNorms"])
def test_resuming_in_the_middle_of_an_epoch(tmp_path: Path, rule: Rule | None) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 7}
    whole = trainer(tmp_path, rule, **settings)
    whole.train()

    host = trainer(tmp_path, rule, **settings)
    host.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert host.state.global_step == len(batches())
    assert_same(host.model.net.state_dict(), whole.model.net.state_dict(), tolerance=0.0)
    if rule is None:
        assert_same(host.model.net.state_dict(), by_hand(scheduler=halving))


def test_a_scheduler_that_hangs_on_the_base_is_right_here_too(tmp_path: Path) -> None:
    host = trainer(tmp_path)
    host.lr_scheduler = halving(host.opt.base)
    host.train()
    assert_same(host.model.net.state_dict(), by_hand(scheduler=halving))


def test_several_bases(tmp_path: Path) -> None:
    host = trainer(tmp_path, base=several, gradient_accumulation_steps=2, max_grad_norm=0.5)
    host.train()
    expected = by_hand(scheduler=halving, base=several, accumulate=2, clip_norm=0.5)
    assert_same(host.model.net.state_dict(), expected)
