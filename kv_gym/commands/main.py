"""`kv-gym`: the program."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kv_gym import __version__
from kv_gym.commands.agreement import agreement
from kv_gym.commands.bench import bench
from kv_gym.commands.bibtex import print_suite
from kv_gym.commands.curves import curves
from kv_gym.commands.dataset import dataset_app
from kv_gym.commands.explain import explain
from kv_gym.commands.leaderboard import leaderboard_app
from kv_gym.commands.lists import agents, envs
from kv_gym.commands.migrate import migrate
from kv_gym.commands.models import models_app
from kv_gym.commands.plan import plan
from kv_gym.commands.problems import problems
from kv_gym.commands.record import record, replay
from kv_gym.commands.references import references
from kv_gym.commands.report import report
from kv_gym.commands.submit import submit_app
from kv_gym.commands.sweep import sweep
from kv_gym.commands.system import end_like_interrupt, speak_utf8, trouble
from kv_gym.commands.train import Trainers
from kv_gym.commands.watch import watch
from kv_gym.errors import KVGymError

app = typer.Typer(
    help="Agents decide which KV-cache slots of a frozen LLM are evicted; this measures how well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app.command()(plan)
app.add_typer(models_app, name="models")
app.add_typer(submit_app, name="submit")
app.add_typer(typer.Typer(cls=Trainers, help="Train an agent (`kv-gym train NAME --help`)."), name="train")
app.add_typer(leaderboard_app, name="leaderboard")
app.add_typer(dataset_app, name="dataset")
for command in (
    bench, sweep, report, explain, agreement, migrate, agents, envs, problems, references, curves, watch, record,
    replay,
):  # fmt: skip
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; mistakes of the user and troubles with files end it with one message.

    Exits with 2, or with 1 when a disk is full, or what was asked for did not go well.
    """
    if sys.stdout is None:
        print("FileError: stdout is closed, so nothing can be told. Redirect it: > file.", file=sys.stderr)
        raise SystemExit(2)
    end_like_interrupt()
    speak_utf8()
    try:
        try:
            app(arguments)
        finally:
            sys.stdout.flush()  # what cannot be written shall not show at the end of the interpreter
    except KVGymError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except OSError as error:
        raise SystemExit(trouble(error)) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    bibtex: Annotated[
        bool, typer.Option("--bibtex", callback=print_suite, is_eager=True, help="Print how to cite kv-gym and stop.")
    ] = False,
) -> None:
    """Options of the program itself."""


if __name__ == "__main__":
    main()
