"""Train for twenty steps with what one extra brings, and see that the other library is not there.

python -I .ci/smoke.py bare|torch|optax
"""

from __future__ import annotations

import importlib.util
import sys

import gradweight
from gradweight.rules import AdaptiveWeights, AngleBisector

STEPS = 20


def bare() -> None:
    """No training: rules on NumPy arrays, and errors that say what to install."""
    import numpy as np

    weights = AngleBisector()(np.array([[4.0, 0.0], [0.0, 1.0]]))
    assert weights.shape == (2,)
    for name, extra in (("MultiObjectiveGradient", "torch"), ("optax", "optax")):
        message = ""
        try:
            getattr(gradweight, name)
        except ModuleNotFoundError as error:
            message = str(error)
        assert f"pip install 'gradweight[{extra}]'" in message, f"gradweight.{name} says {message!r}"


def torch() -> float:
    """A discriminator of two losses."""
    import torch

    from gradweight import MultiObjectiveGradient
    from gradweight.gan import Vanilla, probability_scores

    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1)
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), 0.1), AdaptiveWeights())
    real, fake = torch.randn(32, 2) + 2, torch.randn(32, 2)
    for _ in range(STEPS):
        on_real, on_fake = net(real), net(fake)
        opt.zero_grad()
        opt.backward(Vanilla().discriminator(on_real, on_fake), **probability_scores(on_real, on_fake))
        opt.step()
    return float(probability_scores(net(real), net(fake))["real_score"])


def optax() -> float:
    """The same in JAX."""
    import jax
    import jax.numpy as jnp
    import optax

    from gradweight.optax import combine, loss_gradients
    from gradweight.optax.gan import alpha_loss, probability_scores

    def losses(w, real, fake):
        on_real, on_fake = real @ w["w"] + w["b"], fake @ w["w"] + w["b"]
        named = {"real": alpha_loss(on_real, 1.0).mean(), "fake": alpha_loss(-on_fake, 1.0).mean()}
        return named, probability_scores(on_real, on_fake)

    opt = optax.chain(combine(AdaptiveWeights(), ("real", "fake")), optax.adam(0.1))

    @jax.jit
    def step(w, state, real, fake):
        (values, scores), gradients = loss_gradients(losses, has_aux=True)(w, real, fake)
        updates, state = opt.update(gradients, state, w, losses=values, **scores)
        return optax.apply_updates(w, updates), state, scores

    w = {"w": jnp.zeros(2), "b": jnp.zeros(())}
    state = opt.init(w)
    keys = jax.random.split(jax.random.key(0))
    real, fake = jax.random.normal(keys[0], (32, 2)) + 2, jax.random.normal(keys[1], (32, 2))
    for _ in range(STEPS):
        w, state, scores = step(w, state, real, fake)
    return float(scores["real_score"])


def main() -> None:
    """Run the part of one extra."""
    extra = sys.argv[1]
    there = {name for name in ("torch", "jax", "optax") if importlib.util.find_spec(name) is not None}
    wanted = {"bare": set(), "torch": {"torch"}, "optax": {"jax", "optax"}}[extra]
    assert there == wanted, f"gradweight[{extra}] must bring {wanted or 'no library of arrays'} alone; got {there}"
    if extra == "bare":
        bare()
    else:
        score = {"torch": torch, "optax": optax}[extra]()
        assert score > 0.7, f"the discriminator must have learned something; it gives real samples {score:.2f}"
    print(f"gradweight[{extra}] works from {gradweight.__file__}")


if __name__ == "__main__":
    main()
