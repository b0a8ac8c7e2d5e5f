"""`kv-gym models`: what is known of frozen LLMs, and a check of others."""

from __future__ import annotations

from typing import Annotated

import typer

from kv_gym.commands.console import console, say

models_app = typer.Typer(help="Frozen LLMs: list what was measured, or check one of your own.")


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the models that were measured with the full cache, and the families that are tested."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from kv_gym.llm.known import known_models

    known = known_models()
    columns = ("model", "architecture", "size", "layers", "query/KV heads", "full cache: accuracy (problems, tokens)")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for model in known.models:
        figures = [f"{m.env_id} {m.accuracy:g}% ({m.problems}, {m.tokens})" for m in model.measured]
        name = f"{model.id} ({model.file})" if model.file else model.id
        heads = f"{model.q_heads}/{model.kv_heads} x {model.head_dim}"
        table.add_row(name, model.architecture, model.size, str(model.layers), heads, "; ".join(figures))
    console().print(table)
    say(f"Families tested with random weights: {', '.join(known.families)}. Another one: kv-gym models check ID")


@models_app.command()
def check(
    model: Annotated[str, typer.Argument(help="`tiny`, a hub id, a local folder or a .gguf file.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
) -> None:
    """Prove on a model that evicting slots does what it says, and say what is unsupported. Exits with 1 if it does not.

    The model is loaded in float32, because rounding in shorter types hides mistakes.
    """
    from rich.table import Table

    from kv_gym.llm.check import ALLOWED, check_truths, missing_parts
    from kv_gym.llm.loading import load_llm

    llm = load_llm(model, revision, "float32", device)
    shape, truths = llm.shape, check_truths(llm)
    table = Table("truth", "largest difference", "allowed", "", box=None, pad_edge=False, header_style="bold")
    for truth in truths:
        table.add_row(truth.claim, f"{truth.gap:.1e}", f"{ALLOWED:.0e}", "holds" if truth.held else "DOES NOT HOLD")
    terminal = console()
    terminal.print(table)
    template = "its own" if llm.tokenizer.chat_template else "none, prompts are read as they are"
    terminal.print(
        f"{type(llm.model).__name__}: {shape.n_layers} layers, {shape.n_q_heads} query and {shape.n_kv_heads} KV heads "
        f"of {shape.head_dim}; a slot in all of them is {shape.slot_bytes:,} bytes. Chat template: {template}."
    )
    for missing in missing_parts(llm):
        terminal.print(f"Not supported, {missing}")
    if not all(truth.held for truth in truths):
        raise typer.Exit(1)
