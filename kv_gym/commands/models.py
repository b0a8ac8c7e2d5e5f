"""`kv-gym models`: what is known of frozen LLMs, and a check of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import console, say
from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from kv_gym.llm.check import Truth

MOST_TOKENS = 8192  # eager attention of 32 heads takes 8 GiB for so many

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
    say(
        f"Families tested with random weights: {', '.join(known.families)}. All others: "
        "docs/models.md. Your own: kv-gym models check ID"
    )


@models_app.command()
def check(
    model: Annotated[str, typer.Argument(help="`tiny`, a hub id, a local folder or a .gguf file.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="float32, or bfloat16 or float16 with the tolerance of that type.")
    ] = "float32",
    tokens: Annotated[
        int, typer.Option(min=1, help="Length of the longest text that is read, if the model is right for as many.")
    ] = 1024,
) -> None:
    """Prove on a model that evicting slots does what it says, and say what is unsupported. Exits with 1 if it does not.

    float32 shows most: rounding in shorter types can hide small mistakes. Every model is checked like this in its own
    type when it is first loaded; here a longer text is read too.
    """
    if tokens > MOST_TOKENS:
        raise ConfigError(
            f"--tokens {tokens}: at most {MOST_TOKENS:,} are read, because the attention that they are compared with "
            "takes memory by the square of them. A shorter text shows the same."
        )
    from kv_gym.llm.check import check_truths, missing_parts
    from kv_gym.llm.loading import load_llm
    from kv_gym.llm.proofs import UnprovenModelError

    try:
        llm = load_llm(model, revision, dtype, device)
        truths = check_truths(llm, long=tokens)
    except UnprovenModelError as error:
        show_truths(error.truths)
        say(str(error))
        raise typer.Exit(1) from error
    show_truths(truths)
    terminal, shape = console(), llm.shape
    template = "its own" if llm.tokenizer.chat_template else "none, prompts are read as they are"
    terminal.print(
        f"{type(llm.model).__name__}: {shape.n_layers} layers, {shape.n_q_heads} query and {shape.n_kv_heads} KV heads "
        f"of {shape.head_dim}; a slot in all of them is {shape.slot_bytes:,} bytes. Chat template: {template}."
    )
    if llm.limit is not None:
        terminal.print(f"Right for texts of up to {llm.limit.tokens:,} tokens, because {llm.limit.why}.")
    for missing in missing_parts(llm):
        terminal.print(f"Not supported, {missing}")
    if not all(truth.held for truth in truths):
        raise typer.Exit(1)


def show_truths(truths: list[Truth]) -> None:
    """Print what was checked."""
    from rich.table import Table

    table = Table("truth", "largest difference", "allowed", "", box=None, pad_edge=False, header_style="bold")
    for truth in truths:
        table.add_row(
            truth.claim, f"{truth.gap:.1e}", f"{truth.allowed:.1e}", "holds" if truth.held else "DOES NOT HOLD"
        )
    console().print(table)
