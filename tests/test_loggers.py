"""`as_dict` into the loggers that people use, read back from what they wrote."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

STEPS = 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def losses(net: nn.Module, i: int) -> dict[str, Tensor]:
    y = net(torch.full((4, 3), 1.0 + i))
    return {"data": y.square().mean(), "pde": y.diff(dim=1).abs().mean()}


def run() -> tuple[nn.Module, MultiObjectiveGradient]:
    net = network()
    return net, MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.01), AngleBisector(), history=STEPS)


def test_tensorboard_event_files(tmp_path: Path) -> None:
    net, opt = run()
    with SummaryWriter(str(tmp_path)) as writer:
        for i in range(STEPS):
            opt.zero_grad()
            for key, value in opt.backward(losses(net, i)).as_dict().items():
                writer.add_scalar(key, value, i)
            opt.step()
    events = EventAccumulator(str(tmp_path)).Reload()
    records = [step.as_dict() for step in opt.history]
    assert set(events.Tags()["scalars"]) == set(records[0])
    for key in records[0]:
        found = [(event.step, event.value) for event in events.Scalars(key)]
        # event files hold float32
        assert found == [(i, pytest.approx(record[key], rel=1e-6)) for i, record in enumerate(records)]


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.opt = run()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, index: int) -> None:
        opt = self.optimizers()
        opt.zero_grad()
        self.log_dict(opt.backward(losses(self.net, index)).as_dict(), on_step=True)
        opt.step()

    def configure_optimizers(self) -> MultiObjectiveGradient:
        return self.opt


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and progress bars
def test_lightning_log_dict(tmp_path: Path) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=1,
        logger=CSVLogger(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(STEPS, 1)))
    metrics = tmp_path / "lightning_logs" / "version_0" / "metrics.csv"
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    assert len(rows) == STEPS
    for row, step in zip(rows, module.opt.history, strict=True):
        assert {key: float(row[key]) for key in step.as_dict()} == pytest.approx(step.as_dict(), rel=1e-6)


def test_tqdm_postfix() -> None:
    net, opt = run()
    shown = io.StringIO()
    with tqdm(range(STEPS), file=shown, mininterval=0) as bar:
        for i in bar:
            opt.zero_grad()
            bar.set_postfix(opt.backward(losses(net, i)).as_dict())
            opt.step()
    assert opt.last is not None
    cosine = opt.last.as_dict()["cos/data~pde"]
    assert f"cos/data~pde={cosine:.3g}" in shown.getvalue()


def test_history_is_bounded_and_holds_no_graph() -> None:
    net, opt = run()
    for i in range(3 * STEPS):
        opt.zero_grad()
        opt.backward(losses(net, i))
        opt.step()
        opt.step()  # a step with nothing new is not another record
    assert len(opt.history) == STEPS
    assert opt.history[-1] is opt.last
    assert not any(t.requires_grad for step in opt.history for t in (step.losses, step.gram, step.weights))
