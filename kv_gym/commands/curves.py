"""`kv-gym curves`: how trainings went, as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kv_gym.commands.console import console


def curves(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folder of a training (runs/train/NAME), a checkpoint, or a progress.csv of stable-baselines3.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the plot goes: .png, .svg or .pdf.")] = Path("curves.png"),
    column: Annotated[
        list[str] | None, typer.Option(help="A column of the logs; repeat. Default: the first twelve.")
    ] = None,
) -> None:
    """Draw what trainings logged, one panel a column, one line a training; also of one that is under way."""
    from kv_gym.bench.curves import read_curve, save_curves

    found = [read_curve(run) for run in runs]
    names = save_curves(found, out, column or [])
    for curve in found:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name in names if (values := curve.of(name)[1]))
        console().print(f"{curve.name}: {len(curve.rows)} rows; last {last}")
    console().print(f"plot: {out}")
