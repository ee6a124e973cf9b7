"""Smaller hosts, where they are installed, against the loop by hand."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from .problem import BATCH_SIZE, LEARNING_RATE, assert_same, batches, by_hand, losses, network, wrapped

# of these packages about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_ignite() -> None:
    """The update function is the user's own."""
    engine = pytest.importorskip("ignite.engine")
    net = network()
    opt = wrapped(net)

    def update(_: Any, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        opt.zero_grad()
        seen = opt.backward(losses(net, *batch))
        opt.step()
        return dict(zip(seen.names, seen.losses.tolist(), strict=True))

    trainer = engine.Engine(update)
    trainer.run(batches(), max_epochs=1)
    assert trainer.state.output.keys() == {"fit", "size"}
    assert_same(net.state_dict(), by_hand())


def test_skorch() -> None:
    """It builds the optimizer from a class, and is pickled with it."""
    skorch = pytest.importorskip("skorch")

    class Net(skorch.NeuralNet):  # type: ignore[misc, name-defined]
        def get_loss(self, y_pred: Tensor, y_true: Tensor, *_: Any, training: bool = False, **__: Any) -> Tensor:
            values = losses(lambda prediction: prediction, y_pred, y_true)
            return self.optimizer_.join(values) if training else torch.stack([*values.values()]).sum()

    host = Net(
        network,
        nn.MSELoss,
        optimizer=MultiObjectiveGradient.of(torch.optim.Adam, AngleBisector()),
        lr=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        max_epochs=1,
        train_split=None,
        verbose=0,
    )
    x, y = (torch.cat(column) for column in zip(*batches(), strict=True))
    host.fit(x, y)
    assert_same(host.module_.state_dict(), by_hand())
    kind = pickle.loads(pickle.dumps(host.get_params()["optimizer"]))
    assert issubclass(kind, MultiObjectiveGradient)


def test_deepxde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses are a list, which it stacks and adds up: joined, it is a list of one.

    Its own display of the losses goes through ``losses_test``, which is left as it is.
    """
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    dde = pytest.importorskip("deepxde")
    x, y = (torch.cat(column) for column in zip(*batches()[:1], strict=True))
    data = dde.data.DataSet(X_train=x.numpy(), y_train=y.numpy(), X_test=x.numpy(), y_test=y.numpy())
    net = network()
    net.regularizer = None  # type: ignore[assignment]
    net.auxiliary_vars = None  # type: ignore[assignment]
    opt = wrapped(net)

    def losses_train(targets: Tensor, outputs: Tensor, *_: Any, **__: Any) -> list[Tensor]:
        return [opt.join(losses(lambda prediction: prediction, outputs, targets))]

    monkeypatch.setattr(data, "losses_train", losses_train)
    model = dde.Model(data, net)
    model.compile(opt, loss="MSE", verbose=0)
    model.train(iterations=3, display_every=100, verbose=0)
    direct = network()
    twin = wrapped(direct)
    for _ in range(3):
        twin.zero_grad()
        twin.backward(losses(direct, x, y))
        twin.step()
    assert_same(net.state_dict(), direct.state_dict())


def test_pytorch_metric_learning() -> None:
    """Optimizers of trunk, embedder and the loss's own parameters become one, whose rule sees all of them."""
    metric = pytest.importorskip("pytorch_metric_learning.losses")
    trunk, embedder = nn.Linear(3, 8), nn.Linear(8, 4)
    proxies = metric.ProxyAnchorLoss(3, 4)
    opt = MultiObjectiveGradient(
        [
            torch.optim.Adam(trunk.parameters(), lr=0.01),
            torch.optim.Adam(embedder.parameters(), lr=0.02),
            torch.optim.SGD(proxies.parameters(), lr=0.1),
        ],
        AngleBisector(),
    )
    contrast = metric.ContrastiveLoss()
    labels = torch.arange(12) % 3
    for x, _ in batches()[:3]:
        embeddings = embedder(trunk(x.repeat(3, 1)[:12]))
        opt.zero_grad()
        seen = opt.backward({"proxy": proxies(embeddings, labels), "contrast": contrast(embeddings, labels)})
        assert seen.names == ("proxy", "contrast")
        parts = [*trunk.parameters(), *embedder.parameters(), *proxies.parameters()]
        before = [p.detach().clone() for p in parts]
        opt.step()
        assert not any(torch.equal(p, q) for p, q in zip(before, parts, strict=True))


def test_monai() -> None:
    """Its trainers take a loss function of prediction and target, and step with an optimizer that they are given."""
    engines = pytest.importorskip("monai.engines")
    net = network()
    opt = wrapped(net)
    trainer = engines.SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches(),
        network=net,
        optimizer=opt,
        loss_function=lambda prediction, y: opt.join(losses(lambda p: p, prediction, y)),
    )
    trainer.run()
    assert_same(net.state_dict(), by_hand())


def test_torchrl() -> None:
    """Its loss modules return a TensorDict with losses and more."""
    objectives, modules = pytest.importorskip("torchrl.objectives"), pytest.importorskip("torchrl.modules")
    tensordict = pytest.importorskip("tensordict")
    torch.manual_seed(0)
    actor = tensordict.nn.TensorDictModule(nn.Linear(3, 2), ["observation"], ["action"])

    class Value(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 1)

        def forward(self, observation: Tensor, action: Tensor) -> Tensor:
            return self.linear(torch.cat([observation, action], -1))

    value = modules.ValueOperator(Value(), in_keys=["observation", "action"])
    loss_module = objectives.DDPGLoss(actor, value)
    observation = torch.randn(6, 3)
    after = {"observation": torch.randn(6, 3), "reward": torch.randn(6, 1)}
    after |= {"done": torch.zeros(6, 1, dtype=torch.bool), "terminated": torch.zeros(6, 1, dtype=torch.bool)}
    batch = tensordict.TensorDict({"observation": observation, "action": torch.randn(6, 2), "next": after}, [6])
    params = list(loss_module.parameters())
    opt = MultiObjectiveGradient(torch.optim.SGD(params, lr=0.1), AngleBisector())
    out = loss_module(batch)
    terms = {name: loss for name, loss in out.items() if name.startswith("loss_")}
    expected = [torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True) for loss in terms.values()]
    seen = opt.backward(terms)
    assert set(seen.names) == {"loss_actor", "loss_value"}
    filled = [[torch.zeros_like(p) if g is None else g for p, g in zip(params, row, strict=True)] for row in expected]
    norms = [torch.cat([g.flatten() for g in row]).norm() for row in filled]
    for p, a, b in zip(params, *filled, strict=True):
        torch.testing.assert_close(p.grad, a / norms[0] + b / norms[1], rtol=1e-5, atol=1e-6)  # float32


def test_pina() -> None:
    """Its weighting is handed the losses by name, and its aggregator what the weighting has made of them."""
    pina = pytest.importorskip("pina")
    problems, solvers = pytest.importorskip("pina.problem"), pytest.importorskip("pina.solver")
    optim, weighting = pytest.importorskip("pina.optim"), pytest.importorskip("pina.weighting")

    class Joined(weighting.BaseWeighting):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(aggregator=self.joined)

        def update_weights(self, losses: dict[str, Tensor]) -> dict[str, float]:
            self.names = list(losses)
            return dict.fromkeys(losses, 1.0)

        def joined(self, values: Tensor) -> Tensor:
            return self.solver.optimizers().join(dict(zip(self.names, values, strict=True)))

    torch.manual_seed(0)
    x = {name: torch.randn(6, 1) for name in ("left", "right")}
    y = {name: torch.sin(3 * points) for name, points in x.items()}

    class Problem(problems.BaseProblem):  # type: ignore[misc, name-defined]
        input_variables = ("x",)
        output_variables = ("u",)
        conditions = {  # noqa: RUF012
            name: pina.Condition(input=pina.LabelTensor(x[name], ["x"]), target=pina.LabelTensor(y[name], ["u"]))
            for name in x
        }

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    net, direct = make(), make()
    kind = MultiObjectiveGradient.of(torch.optim.Adam, AngleBisector())
    solver = solvers.SupervisedSingleModelSolver(
        Problem(), net, optimizer=optim.TorchOptimizer(kind, lr=LEARNING_RATE), weighting=Joined(), use_lt=False
    )
    trainer = pina.Trainer(
        solver, max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.train()
    twin = wrapped(direct)
    for _ in range(4):
        twin.zero_grad()
        twin.backward({name: nn.functional.mse_loss(direct(x[name]), y[name]) for name in x})
        twin.step()
    assert_same(net.state_dict(), direct.state_dict(), tolerance=1e-5)


def neurodiffeq_solver(net: nn.Module, opt: torch.optim.Optimizer, loss_fn: Any, **settings: Any) -> Any:
    """Of u' = v, v' = -u, as one network with two outputs, at points that stay."""
    diff = pytest.importorskip("neurodiffeq").diff
    conditions, generators = (pytest.importorskip(f"neurodiffeq.{name}") for name in ("conditions", "generators"))
    starts = []
    for i, value in enumerate((0.0, 1.0)):
        starts.append(conditions.IVP(0.0, value))
        starts[i].set_impose_on(i)
    points = generators.Generator1D(8, 0.0, 2.0, method="equally-spaced")
    return pytest.importorskip("neurodiffeq.solvers").Solver1D(
        lambda u, v, t: [diff(u, t) - v, diff(v, t) + u],
        starts,
        nets=[net] * 2,
        train_generator=points,
        valid_generator=points,
        optimizer=opt,
        loss_fn=loss_fn,
        **settings,
    )


def equations(residuals: Tensor) -> dict[str, Tensor]:
    return {"u": residuals[:, 0].square().mean(), "v": 30 * residuals[:, 1].square().mean()}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("batches_a_step", [1, 2])
def test_neurodiffeq(batches_a_step: int) -> None:
    """Its solvers hand the residuals of all equations to one function, and go backward from what that returns.

    They validate after each epoch by the same function, without a backward pass, and with gradients enabled.
    """
    diff = pytest.importorskip("neurodiffeq").diff

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 2))

    net, direct = make(), make()
    opt = wrapped(net)
    solver = neurodiffeq_solver(
        net,
        opt,
        lambda residuals, functions, coordinates: opt.join(equations(residuals)),
        n_batches_train=batches_a_step,
    )
    solver.fit(4, tqdm_file=None)
    assert opt.last is not None
    assert opt.last.names == ("u", "v")
    assert len(solver.metrics_history["valid_loss"]) == 4
    twin = wrapped(direct)
    for _ in range(4):
        twin.zero_grad()
        for _ in range(batches_a_step):
            t = torch.linspace(0.0, 2.0, 8)[:, None].requires_grad_()
            u, v = ((1 - torch.exp(-t)) * direct(t) + torch.tensor([0.0, 1.0])).split(1, 1)
            twin.backward(equations(torch.cat([diff(u, t) - v, diff(v, t) + u], 1)))
        twin.step()
    assert_same(net.state_dict(), direct.state_dict())
