"""Hosts that go backward by themselves, through `LossBalancer`: copies on another device, Keras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import LossBalancer, MultiObjectiveGradient
from gradweight.rules import AngleBisector

from .problem import BATCH_SIZE, LEARNING_RATE, assert_same, batches, by_hand, losses, network, wrapped


class Offload(torch.optim.Optimizer):
    """Steps copies on the host, to which post-accumulate hooks bring the gradients: torchao's protocol.

    Args:
        params: on the device.
        frees: whether the gradients on the device are freed as they are brought over.
        lr: the learning rate.
    """

    def __init__(self, params: Iterable[Tensor], frees: bool, lr: float) -> None:
        self.param_d2h_map = copies = {p: p.detach().cpu().clone() for p in params}
        super().__init__(list(copies.values()), {})
        self.inner = torch.optim.Adam(list(copies.values()), lr=lr)
        self.hooked = 0

        def bring(p: Tensor) -> None:
            assert p.grad is not None
            self.hooked += 1
            copies[p].grad = p.grad.detach().cpu().clone()
            if frees:
                p.grad = None

        for p in copies:
            p.register_post_accumulate_grad_hook(bring)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        with torch.no_grad():
            for p, copy in self.param_d2h_map.items():
                p.copy_(copy)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.param_d2h_map:
            p.grad = None


@pytest.mark.parametrize("frees", [False, True])
def test_an_optimizer_of_copies(frees: bool) -> None:
    net = network()
    optimizer = Offload(net.parameters(), frees, LEARNING_RATE)
    balance = LossBalancer(AngleBisector(), net.parameters())
    for batch in batches():
        optimizer.zero_grad()
        balance(losses(net, *batch)).backward()
        optimizer.step()
    assert optimizer.hooked == len(batches()) * len(list(net.parameters()))  # not once for each loss
    assert_same(net.state_dict(), by_hand())


def test_the_wrapper_around_it_is_an_error() -> None:
    """Whose parameters would silently stay where they are."""
    with pytest.raises(TypeError, match=r"got Offload, which steps copies.*gradweight\.LossBalancer"):
        MultiObjectiveGradient(Offload(network().parameters(), False, LEARNING_RATE), AngleBisector())


@pytest.mark.cuda
def test_torchao() -> None:
    """The real one, which wants a device to offload from."""
    optim = pytest.importorskip("torchao.optim")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    net, reference = network().cuda(), network().cuda()
    optimizer = optim.CPUOffloadOptimizer(
        net.parameters(), torch.optim.Adam, offload_gradients=True, minimal_size=1, lr=LEARNING_RATE
    )
    balance = LossBalancer(AngleBisector(), net.parameters())
    direct = wrapped(reference)
    for x, y in batches():
        optimizer.zero_grad()
        balance(losses(net, x.cuda(), y.cuda())).backward()
        optimizer.step()
        direct.zero_grad()
        direct.backward(losses(reference, x.cuda(), y.cuda()))
        direct.step()
    # Adam divides what is rounded in the sixth digit by its own size
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of Keras about itself
def test_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its optimizers are none of torch: weights first, then its own step along ``.grad``."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")

    class Model(keras.Sequential):  # type: ignore[misc, name-defined]
        def train_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            x, y = data
            self.zero_grad()
            loss = balance(losses(lambda x: self(x, training=True), x, y))
            loss.backward()
            weights = self.trainable_weights
            with torch.no_grad():
                self.optimizer.apply([weight.value.grad for weight in weights], weights)
            return {"loss": loss}

    reference = network()
    linear = [layer for layer in reference if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
    with keras.device("cpu"):
        model = Model([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
        for ours, theirs in zip(model.layers, linear, strict=True):
            ours.set_weights([theirs.weight.detach().T.numpy(), theirs.bias.detach().numpy()])
        balance = LossBalancer(AngleBisector(), [weight.value for weight in model.trainable_weights])
        model.compile(optimizer=keras.optimizers.SGD(LEARNING_RATE), jit_compile=False)
        x, y = (torch.cat(column) for column in zip(*batches(), strict=True))
        model.fit(x, y, batch_size=BATCH_SIZE, epochs=1, shuffle=False, verbose=0)
    expected = by_hand(base=torch.optim.SGD)
    found = {}
    for name, layer in zip(("0", "2"), model.layers, strict=True):
        kernel, bias = layer.get_weights()
        found |= {f"{name}.weight": torch.tensor(kernel.T), f"{name}.bias": torch.tensor(bias)}
    assert_same(found, expected)
