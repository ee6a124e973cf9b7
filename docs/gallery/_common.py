"""What the scripts of the gallery share: the command line, the look, and where the picture goes."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).resolve().parent


def start(doc: str | None) -> argparse.Namespace:
    """Read ``--quick`` and ``--out``, seed torch, and set the look of pictures."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where the picture goes (default: here)")
    options = parser.parse_args()
    torch.manual_seed(0)
    plt.style.use(HERE / "style.mplstyle")
    return options


def save(figure: Figure, name: str, options: argparse.Namespace) -> None:
    """Write the picture, and say where."""
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / name)
    with Image.open(options.out / name) as picture:  # 256 colours are enough, and a third of the size
        picture.convert("RGB").quantize(256).save(options.out / name, optimize=True)
    print(f"written: {options.out / name}")
