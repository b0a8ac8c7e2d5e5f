"""`kv-gym submit`: make a submission, check one."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kv_gym.commands.console import BarProgress, console, say, watched
from kv_gym.commands.leaderboard import SUBMISSIONS
from kv_gym.commands.options import ChunkSeconds, RayAddress, WorkerCount, parse_agent, parse_workers, split_name
from kv_gym.leaderboard.text import printable

submit_app = typer.Typer(help="Put an agent on the leaderboard, or check a submission.", no_args_is_help=True)


class LevelChoice(StrEnum):
    """What `--level` takes."""

    schema = "schema"
    arithmetic = "arithmetic"
    replay = "replay"


class DivisionChoice(StrEnum):
    """What `--division` takes."""

    closed = "closed"
    open = "open"


Protocol = Annotated[Path | None, typer.Option(help="Another protocol than the board's, a YAML file.")]


@submit_app.command()
def new(
    agent: Annotated[str, typer.Argument(metavar="NAME[,KEY=VALUE...]", help="As `kv-gym bench --agent` takes it.")],
    author: Annotated[list[str], typer.Option(help="Who submits; repeat for more.")],
    title: Annotated[
        str | None,
        typer.Option(help="What the board calls it. Default: what stands behind `as`, else its name."),
    ] = None,
    slug: Annotated[str | None, typer.Option(help="Short name of the folder. Default: made from the title.")] = None,
    link: Annotated[str, typer.Option(help="Paper or repository, https://...")] = "",
    division: Annotated[
        DivisionChoice, typer.Option(help="closed: models and problems of the board, and nothing else. open: else.")
    ] = DivisionChoice.closed,
    problems: Annotated[int | None, typer.Option(help="A trial with fewer problems; no entry.")] = None,
    budget: Annotated[list[int] | None, typer.Option(help="A trial with these budgets; no entry. Repeat.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of submissions.")] = SUBMISSIONS,
    protocol: Protocol = None,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    chunk_seconds: ChunkSeconds = None,
) -> None:
    """Play the board's protocol with an agent and write a submission. After a kill the same command goes on."""
    from kv_gym.leaderboard.protocol import read_protocol
    from kv_gym.leaderboard.submit import Entry, make_heading, make_submission, slug_of

    typed, called = split_name(agent)
    name, options = parse_agent(typed)
    full = read_protocol(protocol)
    played = full.reduced(problems, budget or [])
    title = title or called or name.rpartition(":")[2]
    trial = played != full
    heading = make_heading(
        title=title, slug=slug or slug_of(title), authors=author, link=link, division=division.value, trial=trial,
        reduced={"problems": problems, "budgets": budget or []} if trial else None,
    )  # fmt: skip
    entry, crew = Entry(name, options, heading), parse_workers(workers, ray, chunk_seconds)
    folder = watched(lambda progress: make_submission(entry, played, out, progress, crew), out, "episodes")
    say(f"{'trial, no leaderboard entry' if trial else 'submission'}: {folder}")
    print(folder)


@submit_app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The submission.")],
    level: Annotated[
        LevelChoice, typer.Option(help="How far: the files; what follows from the rows; a sample played again.")
    ] = LevelChoice.replay,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run the agent again too. THIS RUNS THE SUBMITTER'S CODE on your machine.")
    ] = False,
    sample: Annotated[int, typer.Option(help="Episodes that are played again.")] = 24,
    seed: Annotated[int | None, typer.Option(help="Draws the sample. Default: nobody knows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
    protocol: Protocol = None,
) -> None:
    """Check a submission. Exits with 0 if nothing speaks against it, with 1 if something does."""
    from dataclasses import asdict

    from kv_gym.leaderboard.protocol import read_protocol
    from kv_gym.leaderboard.verify import check_submission

    if rerun:
        sys.dont_write_bytecode = True  # the folder stays as it is, also where the agent imports something late
        say(f"WARNING: --rerun runs the code in {folder / 'agent'}. Do that only in a place you can lose.")
    with BarProgress() as progress:
        verdict = check_submission(
            folder, read_protocol(protocol), "rerun" if rerun else level.value, progress, sample, seed
        )
    if as_json:
        print(json.dumps({"ok": verdict.ok, **asdict(verdict)}, indent=1))
    else:
        _print(verdict.notes, [(finding.code, finding.detail) for finding in verdict.findings], verdict.trial)
    if not verdict.ok:
        raise typer.Exit(1)


@submit_app.command()
def schemas(
    out: Annotated[Path, typer.Option(help="Folder of the schemas.")] = Path("leaderboards/schema/v1"),
) -> None:
    """Write the JSON Schemas of a submission's files."""
    from kv_gym.leaderboard.submission import write_schemas

    write_schemas(out)
    say(f"schemas: {out}")


def _print(notes: list[str], findings: list[tuple[str, str]], trial: bool) -> None:
    """Show a verdict; what submitters wrote is plain text."""
    from rich.text import Text

    for note in notes:
        console().print(Text(printable(note)))
    for code, detail in findings[:20]:
        text = printable(detail)
        console().print(Text.assemble((f"{code}: ", "bold red"), text))
    if len(findings) > 20:
        console().print(Text(f"and {len(findings) - 20} more"))
    if findings:
        console().print(Text("refused", "bold red"))
    else:
        console().print(Text(f"nothing speaks against it{', a trial' if trial else ''}", "bold green"))
