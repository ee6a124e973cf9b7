"""Lightning's Trainer, automatic and manual optimisation, against the loop by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule

from .gan import discriminator_losses, gan, gan_by_hand, generator_losses, state_of_gan
from .problem import SlowNorms, assert_same, batches, by_hand, halving, losses, network, several, wrapped

# raised by Lightning about itself and its environment
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:GPU available but not used.*"),
]

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_epochs": 1, "enable_checkpointing": False} | settings),
    )


def loader() -> DataLoader[Any]:
    return DataLoader(batches(), batch_size=None)


class Automatic(lightning.LightningModule):
    def __init__(self, rule: Rule | None = None, base: Callable[..., Any] = torch.optim.Adam) -> None:
        super().__init__()
        self.net = network()
        self.rule, self.base = rule, base

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = self.optimizers().join(losses(self.net, *batch))
        self.log("train", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        opt = wrapped(self.net, self.rule, self.base)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": halving(opt), "interval": "step"}}


@pytest.mark.parametrize(
    ("settings", "like"),
    [
        ({}, {}),
        ({"accumulate_grad_batches": 3}, {"accumulate": 3}),
        ({"gradient_clip_val": 0.5}, {"clip_norm": 0.5}),
        (
            {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2},
            {"clip_value": 0.05, "accumulate": 2},
        ),
        ({"precision": "bf16-mixed"}, {"autocast": torch.bfloat16}),
    ],
    ids=["plain", "accumulate", "clip norm", "clip value, accumulate", "bf16"],
)
def test_automatic_optimisation(tmp_path: Path, settings: dict[str, Any], like: dict[str, Any]) -> None:
    module = Automatic(base=torch.optim.SGD)
    trainer(tmp_path, **settings).fit(module, loader())
    assert_same(module.net.state_dict(), by_hand(scheduler=halving, base=torch.optim.SGD, **like))


def test_losses_that_are_split_at(tmp_path: Path) -> None:
    """Lightning goes backward through a plain sum of them, divided by the number of micro-batches."""

    class Split(Automatic):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            terms = self.optimizers().split_at(losses(self.net, *batch))
            return torch.stack([*terms.values()]).sum()

    module = Split(base=torch.optim.SGD)
    trainer(tmp_path, accumulate_grad_batches=3, gradient_clip_val=0.5).fit(module, loader())
    assert_same(module.net.state_dict(), by_hand(scheduler=halving, base=torch.optim.SGD, accumulate=3, clip_norm=0.5))


def test_validation_between_epochs_changes_nothing(tmp_path: Path) -> None:
    class Validated(Automatic):
        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val", self.optimizers().join(losses(self.net, *batch)))

    module = Validated()
    fit = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=1)
    fit.fit(module, loader(), loader())
    assert_same(module.net.state_dict(), by_hand(scheduler=halving, epochs=2))
    with torch.no_grad():
        last = sum(float(sum(losses(module.net, *batch).values())) for batch in batches()) / len(batches())
    assert float(fit.callback_metrics["val"]) == pytest.approx(last, rel=1e-6)


def test_the_logged_loss_is_the_plain_sum(tmp_path: Path) -> None:
    module = Automatic(base=lambda params, lr: torch.optim.SGD(params, lr=0.0))
    fit = trainer(tmp_path)
    fit.fit(module, loader())
    with torch.no_grad():
        mean = sum(float(sum(losses(network(), *batch).values())) for batch in batches()) / len(batches())
    assert float(fit.callback_metrics["train"]) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("rule", [None, SlowNorms()], ids=["AngleBisector", "SlowNorms"])
def test_resuming_from_a_checkpoint_gives_the_uninterrupted_run(tmp_path: Path, rule: Rule | None) -> None:
    if rule is None:
        whole = by_hand(scheduler=halving, epochs=2)
    else:
        module = Automatic(rule)
        trainer(tmp_path, max_epochs=2).fit(module, loader())
        whole = module.net.state_dict()

    first = trainer(tmp_path, max_epochs=1)
    first.fit(Automatic(rule), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")

    module = Automatic(rule)
    trainer(tmp_path, max_epochs=2).fit(module, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert_same(module.net.state_dict(), whole, tolerance=1e-6 if rule is None else 0.0)
    if rule is not None:
        state = module.optimizers().param_groups[0]["rule_state"]['state of SlowNorms for ["fit", "size"]']
        assert int(state["steps"]) == 2 * len(batches())


class Adversarial(lightning.LightningModule):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = gan()
        self.how = how

    def training_step(self, batch: Any, index: int) -> None:
        z, real = batch
        opt_g, opt_d = self.optimizers()
        for opt, its_losses in ((opt_d, discriminator_losses), (opt_g, generator_losses)):
            with opt.toggle_model():
                values = its_losses(self.discriminator, real, self.generator(z))
                opt.zero_grad()
                if self.how == "join":
                    self.manual_backward(opt.join(values))
                else:
                    opt.backward(values)
                opt.step()

    def configure_optimizers(self) -> list[MultiObjectiveGradient]:
        return [wrapped(self.generator), wrapped(self.discriminator)]


@pytest.mark.parametrize("how", ["join", "backward"])
def test_manual_optimisation_of_a_gan(tmp_path: Path, how: str) -> None:
    module = Adversarial(how)
    trainer(tmp_path).fit(module, loader())
    assert_same(state_of_gan(module.generator, module.discriminator), gan_by_hand())


def test_what_was_seen_goes_into_log_dict(tmp_path: Path) -> None:
    class Logging(Automatic):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.log_dict(self.optimizers().last.as_dict())

    fit = trainer(tmp_path)
    module = Logging()
    fit.fit(module, loader())
    seen = module.optimizers().last.as_dict()
    for name, value in seen.items():
        assert float(fit.callback_metrics[name]) == pytest.approx(value, rel=1e-6), name


def test_a_scheduler_that_hangs_on_the_base_is_refused_by_lightning(tmp_path: Path) -> None:
    class Wrong(Automatic):
        def configure_optimizers(self) -> Any:
            opt = wrapped(self.net)
            return {"optimizer": opt, "lr_scheduler": halving(opt.base)}

    with pytest.raises(MisconfigurationException, match="attached with an optimizer that wasn't returned"):
        trainer(tmp_path).fit(Wrong(), loader())


def test_several_bases_resume_from_a_checkpoint(tmp_path: Path) -> None:
    first = trainer(tmp_path, gradient_clip_val=0.5)
    first.fit(Automatic(base=several), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    module = Automatic(base=several)
    again = trainer(tmp_path, max_epochs=2, gradient_clip_val=0.5)
    again.fit(module, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert_same(module.net.state_dict(), by_hand(scheduler=halving, base=several, clip_norm=0.5, epochs=2))


def test_automatic_optimization_that_is_returned_no_loss(tmp_path: Path) -> None:
    class Returned(Automatic):
        def training_step(self, batch: Any, index: int) -> None:  # type: ignore[override]
            self.optimizers().backward(losses(self.net, *batch))

    with (
        pytest.warns(UserWarning, match=r"return self\.optimizers\(\)\.join"),
        pytest.warns(UserWarning, match="returned `None`"),  # what Lightning itself says
    ):
        trainer(tmp_path, max_steps=1).fit(Returned(), loader())
