"""The ring of eight Gaussians in JAX: a plain GAN beside the same GAN with `AdaptiveWeights`, an ensemble of each.

    python -m benchmarks.studies.ring.in_jax [--steps 6000] [--seeds 4] [--cite]

The setting is that of ``benchmarks.studies.ring.compare``, which has more seeds and the statistics: this is what it
looks like with `gradweight.optax`. The seeds are trained at once, under ``jax.vmap``, and all steps between two frames
are one compiled ``jax.lax.scan``. It prints the modes that each seed covers and writes the frames of the first seed,
ring.png, from samples.npz, and the numbers with the machine record, ring.json. ``benchmarks.redraw`` draws them again.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.pictures import BLUE, GREY, panels, picture, save
from benchmarks.record import machine_record
from gradweight.optax import combine, loss_gradients
from gradweight.optax.gan import probability_scores
from gradweight.rules import AdaptiveWeights, Sum

WIDTH, BATCH, NOISE, STD, FRAMES, DRAWN = 128, 128, 8, 0.02, 5, 512
ANGLES = 2 * math.pi * jnp.arange(8) / 8
MODES = jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], axis=1)
RULES: dict[str, Any] = {"plain": Sum(), "AdaptiveWeights": AdaptiveWeights()}


def network(key: jax.Array, inputs: int, outputs: int) -> list[dict[str, jax.Array]]:
    sizes = [inputs, WIDTH, WIDTH, outputs]
    layers = []
    for k, a, b in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True):
        for_weights, for_biases = jax.random.split(k)
        bound = 1 / math.sqrt(a)
        weights = jax.random.uniform(for_weights, (a, b), minval=-bound, maxval=bound)
        layers.append({"w": weights, "b": jax.random.uniform(for_biases, (b,), minval=-bound, maxval=bound)})
    return layers


def run(layers: list[dict[str, jax.Array]], x: jax.Array, activation: Any) -> jax.Array:
    for layer in layers[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


generate = functools.partial(run, activation=jax.nn.relu)
judge = functools.partial(run, activation=functools.partial(jax.nn.leaky_relu, negative_slope=0.2))


def discriminator_losses(d: Any, real: jax.Array, fake: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The two losses by name, and the scores that the rule asks for."""
    on_real, on_fake = judge(d, real), judge(d, fake)
    losses = {"real": jax.nn.softplus(-on_real).mean(), "fake": jax.nn.softplus(on_fake).mean()}
    return losses, probability_scores(on_real, on_fake)


def frames(rule: Any, steps: int, seeds: int) -> list[jax.Array]:
    """Samples of each seed at the start and after each of `FRAMES` - 1 equal parts of the training."""
    adam = functools.partial(optax.adam, 5e-4, b1=0.5, b2=0.99)
    g_opt, d_opt = adam(), optax.chain(combine(rule, ("real", "fake")), adam())

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        g, g_state, d, d_state = carry
        for_mode, for_real, for_noise = jax.random.split(key, 3)
        mode = jax.random.randint(for_mode, (BATCH,), 0, 8)
        real = MODES[mode] + STD * jax.random.normal(for_real, (BATCH, 2))
        noise = jax.random.normal(for_noise, (BATCH, NOISE))
        (losses, scores), gradients = loss_gradients(discriminator_losses, has_aux=True)(d, real, generate(g, noise))
        updates, d_state = d_opt.update(gradients, d_state, d, losses=losses, **scores)
        d = optax.apply_updates(d, updates)
        gradient = jax.grad(lambda g: jax.nn.softplus(-judge(d, generate(g, noise))).mean())(g)
        updates, g_state = g_opt.update(gradient, g_state, g)
        return (optax.apply_updates(g, updates), g_state, d, d_state), None

    @jax.vmap
    def start(key: jax.Array) -> Any:
        for_g, for_d = jax.random.split(key)
        g, d = network(for_g, NOISE, 2), network(for_d, 2, 1)
        return g, g_opt.init(g), d, d_opt.init(d)

    @jax.jit
    @jax.vmap
    def part(carry: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, carry, jax.random.split(key, steps // (FRAMES - 1)))[0]

    each = jax.vmap(generate, in_axes=(0, None))
    for_networks, for_samples, *parts = jax.random.split(jax.random.key(0), 1 + FRAMES)
    noise = jax.random.normal(for_samples, (DRAWN, NOISE))
    carry = start(jax.random.split(for_networks, seeds))
    found = [each(carry[0], noise)]
    for key in parts:
        carry = part(carry, jax.random.split(key, seeds))
        found.append(each(carry[0], noise))
    return found


def covered(samples: jax.Array) -> int:
    """Modes with a sample within three standard deviations."""
    distances = jnp.linalg.norm(samples[:, None] - MODES, axis=2)
    return int((distances.min(axis=0) < 3 * STD).sum())


@picture()
def draw(out: Path) -> None:
    """A row for each rule, the samples of the first seed as training goes on, from ``samples.npz``."""
    with np.load(out / "samples.npz") as kept:
        moments = {name: kept[name].astype(float) for name in RULES}
        steps = kept["step"]
    figure, axes = panels(len(moments), len(steps), 3.9, sharex=True, sharey=True)
    for row, (name, samples) in zip(axes, moments.items(), strict=True):
        for place, some, step in zip(row, samples, steps, strict=True):
            place.scatter(*MODES.T, s=60, facecolors="none", edgecolors=GREY, lw=0.8)
            place.scatter(*some.T, s=3, color=BLUE, alpha=0.4, lw=0)
            place.grid(False)
            place.spines[:].set_visible(True)
            place.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[], aspect="equal")
            if name == "plain":
                place.set_title(f"step {step:,}")
        row[0].set_ylabel(name)
    save(figure, out / "ring.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=4)
    add_output_arguments(parser)
    arguments = parser.parse_args()
    out = output_folder(arguments, "ring_jax")

    results, first = {}, {}
    for name, rule in RULES.items():
        start = time.perf_counter()
        samples = frames(rule, arguments.steps, arguments.seeds)
        counts = [covered(some) for some in samples[-1]]
        results[name] = {"modes_covered": counts, "seconds": round(time.perf_counter() - start, 1)}
        print(f"{name}: each seed covers {counts} modes, {results[name]['seconds']} s", flush=True)
        first[name] = np.array([moment[0] for moment in samples], np.float16)
    part = arguments.steps // (FRAMES - 1)
    np.savez_compressed(out / "samples.npz", step=part * np.arange(FRAMES), **first)
    draw(out)
    record = machine_record() | {"jax": jax.__version__, "optax": optax.__version__}
    (out / "ring.json").write_text(json.dumps({"machine": record, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
