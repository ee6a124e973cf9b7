"""Two pictures of what the three papers prove, drawn from the losses of `gradweight.gan`; nothing is trained.

    python -m benchmarks.studies.theory.draw           # seconds; writes to build/theory/

**pull.png**: how hard a generated sample is pulled, C of Theorem 2 and C^NS of Theorem 3 of the (alpha_D, alpha_G)-GAN
(arXiv:2310.18291), from one mode of the data over the gap to the next. The discriminator is the best one for densities
that are known; C is what autograd gives for the generator's loss, over the vector of the theorems.

**games.png**: on the left, what a generator minimises against the best discriminator of weighted losses, Theorem 1 of
Adaptive Weighted Discriminator (arXiv:2012.03149); on the right, Theorem 1 and appendix D.4 of AdvAs
(arXiv:2010.01274): how wrong the generator's gradient is, and the root of the AdvAs penalty, as the adversary leaves
its best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.pictures import BLUE, GREEN, GREY, INK, RED, log_axis, panels, picture, save
from gradweight.gan import Alpha, Vanilla, advas_penalty

COLOURS = (INK, BLUE, RED, GREEN)

ORDERS = {
    r"$\alpha_D$": [(1.0, 1.0), (0.7, 1.0), (0.5, 1.0), (0.2, 1.0)],
    r"$\alpha_G$": [(1.0, 1.0), (1.0, 1.2), (1.0, 2.0), (1.0, 0.8)],
}
SPREADS = (0.4, 0.5)
"""Of each mode of the data, at 0 and 4, and of the generated samples, around 0.5."""


def log_normal(x: Tensor, centre: float, spread: float) -> Tensor:
    return torch.distributions.Normal(centre, spread).log_prob(x)


def log_densities(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the data and of the generated samples."""
    modes = torch.stack([log_normal(x, centre, SPREADS[0]) for centre in (0.0, 4.0)])
    return modes.logsumexp(0) - torch.tensor(2.0).log(), log_normal(x, 0.5, SPREADS[1])


def pull(x: Tensor, loss: Alpha) -> Tensor:
    """C at each x, or C^NS: the gradient of a sample's loss over ``d(log p_g - log p_r)/dx``."""
    x = x.clone().requires_grad_()
    log_r, log_g = log_densities(x)
    vector = torch.autograd.grad((log_g - log_r).sum(), x, retain_graph=True)[0]
    logits = loss.alpha_d * (log_r - log_g)
    return torch.autograd.grad(loss.generator(logits)["fake"] * len(x), x)[0] / vector


@picture()
def draw_pull(path: Path) -> None:
    """Densities, C and C^NS; on the left for several alpha_D, on the right for several alpha_G."""
    x = torch.linspace(-1.5, 5.5, 700, dtype=torch.float64)
    figure, axes = panels(3, 2, 8.2, sharex=True, sharey="row")
    for (order, settings), column in zip(ORDERS.items(), axes.T, strict=True):
        log_r, log_g = log_densities(x)
        for log, label, colour in ((log_r, "data", GREY), (log_g, "generated", RED)):
            column[0].fill_between(x, log.exp(), color=colour, alpha=0.25, lw=0, label=f"density: {label}")
        for (alpha_d, alpha_g), colour in zip(settings, COLOURS, strict=True):
            label = f"({alpha_d:g}, {alpha_g:g})"
            if alpha_d != 1 or alpha_g == 1:
                column[0].plot(x, (alpha_d * (log_r - log_g)).sigmoid(), color=colour, lw=1.3, label=f"best D {label}")
            for axis, saturating in zip(column[1:], (True, False), strict=True):
                axis.plot(x, pull(x, Alpha(alpha_d, alpha_g, saturating)), color=colour, lw=1.5, label=label)
        column[0].set_title(f"density, best discriminator; {order} varies")
        column[0].set_ylim(-0.03, 1.45)
        column[1].set_title("saturating: $C$")
        column[2].set_title(r"not saturating: $C^{NS}$")
        column[2].set_xlabel("place of a generated sample")
        column[0].legend(ncols=2, loc="upper left", columnspacing=1)
        column[1].legend(title=r"$(\alpha_D, \alpha_G)$", loc="lower left")
    for axis in axes[1:].flat:
        axis.set_ylim(1e-4, 20)
        log_axis(axis, "y", "", (1e-4, 1e-3, 1e-2, 0.1, 1, 10))
    for axis in axes[1:, 0]:
        axis.set_ylabel("pull on a sample (log scale)")
    axes[0, 0].set_ylabel("density; D")
    axes[0, 0].set_xlim(-1.5, 5.5)
    save(figure, path)


def weighted_game(shifts: Tensor, w_r: float, w_f: float) -> list[float]:
    """The largest L^aw against a Gaussian that is shifted so far from the data's, less its least value."""
    loss, x = Vanilla(), torch.linspace(-10, 14, 4001, dtype=torch.float64)
    step = float(x[1] - x[0])
    w = torch.tensor([w_r, w_f], dtype=torch.float64)
    least = (w * (w / w.sum()).log()).sum()
    found = []
    for shift in shifts.tolist():
        log_d, log_g = log_normal(x, 0.0, 1.0), log_normal(x, shift, 1.0)
        logits = w[0].log() + log_d - w[1].log() - log_g
        value = -(w_r * log_d.exp() * loss.on_real(logits) + w_f * log_g.exp() * loss.on_fake(logits)).sum() * step
        found.append(float(value - least))
    return found


def assisted_game(distances: Tensor) -> dict[str, list[float]]:
    """Adversaries at these distances from the best: the error of the generator's gradient, and the root of r.

    The generator is a softmax over six points and the adversary a table of logits.
    """
    random = torch.Generator().manual_seed(0)
    p_true = torch.randn(6, dtype=torch.float64, generator=random).softmax(0)
    theta = torch.randn(6, dtype=torch.float64, generator=random).requires_grad_()
    away = torch.randn(6, dtype=torch.float64, generator=random)
    best = (p_true.log() - theta.log_softmax(0)).detach()
    loss = Vanilla(saturating=True)

    def adversary_loss(phi: dict[str, Tensor]) -> Tensor:
        return (p_true * loss.on_real(phi["s"])).sum() + (theta.softmax(0) * loss.on_fake(phi["s"])).sum()

    def of_theta(function: Callable[[], Tensor]) -> Tensor:
        return torch.autograd.grad(function(), theta)[0]

    right = of_theta(lambda: -adversary_loss({"s": best}))
    found: dict[str, list[float]] = {"error of the generator's gradient": [], "root of the AdvAs penalty": []}
    for distance in distances.tolist():
        phi = {"s": best + distance * away / away.norm()}
        errors, roots = found.values()
        errors.append(float((of_theta(lambda phi=phi: -adversary_loss(phi)) - right).norm()))  # type: ignore[misc]
        roots.append(float(advas_penalty(adversary_loss, phi).detach().sqrt()))
    return found


@picture()
def draw_games(path: Path) -> None:
    """The two games side by side."""
    figure, axes = panels(1, 2, 3.6)
    left, right = axes[0]
    shifts = torch.linspace(-4, 4, 81)
    for weights, colour in zip(((1.0, 1.0), (2.0, 0.5), (4.0, 1.0)), COLOURS, strict=False):
        left.plot(shifts, weighted_game(shifts, *weights), color=colour, lw=1.5, label="({:g}, {:g})".format(*weights))
    left.legend(title="$(w_r, w_f)$", loc="lower right")
    left.set_title("Least where generated is data")
    left.set(xlabel="mean of the generated samples (of the data: 0)", ylabel="$\\max_D L^{aw}$, less its least value")
    distances = torch.linspace(-3, 3, 121)
    for (label, values), colour in zip(assisted_game(distances).items(), COLOURS[1:], strict=False):
        right.plot(distances, values, color=colour, lw=1.5, label=label)
    right.legend(loc="upper center")
    right.set_title("AdvAs: zero together, at the best")
    right.set_xlabel("distance of the adversary from its best")
    for axis in (left, right):
        axis.margins(x=0)
        axis.set_ylim(bottom=0)
    save(figure, path)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_output_arguments(parser)
    out = output_folder(parser.parse_args(words), "theory")
    draw_pull(out / "pull.png")
    draw_games(out / "games.png")
    print("C and C^NS in the gap, at 2, and at the second mode, at 4")
    places = torch.tensor([2.0, 4.0], dtype=torch.float64)
    for alpha_d, alpha_g in dict.fromkeys(pair for settings in ORDERS.values() for pair in settings):
        found = [pull(places, Alpha(alpha_d, alpha_g, saturating)).tolist() for saturating in (True, False)]
        print(f"  ({alpha_d:g}, {alpha_g:g})", *("{:12.2g}{:12.2g}".format(*values) for values in found))
    print(f"wrote pull.png and games.png to {out}")


if __name__ == "__main__":
    main()
