"""Where results go: below ``build/`` unless they are to be the ones that README and docs cite."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["CITED", "ROOT", "add_output_arguments", "output_folder"]

ROOT = Path(__file__).resolve().parents[1]

CITED = ROOT / "benchmarks" / "results"
"""What README and docs cite; it is committed."""


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` and ``--cite``."""
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (default: one below build/)")
    parser.add_argument(
        "--cite", action="store_true", help="write to benchmarks/results instead, whose numbers README and docs cite"
    )


def output_folder(arguments: argparse.Namespace, name: str) -> Path:
    """The folder that was asked for, made if it is not there; ``name`` says which study or measurement it is."""
    out: Path = arguments.out or (CITED if arguments.cite else ROOT / "build") / name
    out.mkdir(parents=True, exist_ok=True)
    return out
