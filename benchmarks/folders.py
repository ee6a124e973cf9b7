"""Where results go: below ``build/`` unless they are to be the ones that README and docs cite."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

__all__ = ["CITED", "ROOT", "add_output_arguments", "output_folder", "publish", "working_folder"]

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


def working_folder(arguments: argparse.Namespace, name: str) -> Path:
    """The folder of a study that writes as it goes: never the cited one, which a stop half-way would leave mixed.

    With ``--cite`` it is one below build/cited/, which starts as a copy of what is cited, so that a study can go on
    from there; `publish` puts it in place in the end.
    """
    if arguments.out or not arguments.cite:
        return output_folder(arguments, name)
    out = ROOT / "build" / "cited" / name
    if not out.exists() and (CITED / name).exists():
        shutil.copytree(CITED / name, out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def publish(arguments: argparse.Namespace, folder: Path, name: str) -> None:
    """What a finished study has left in its working folder becomes what is cited, if ``--cite`` asks for it."""
    if arguments.cite and not arguments.out:
        shutil.copytree(folder, CITED / name, dirs_exist_ok=True)
        shutil.rmtree(folder)  # the next one starts from what is cited then
        print(f"put in place: {CITED / name}")
