"""`kv-gym problems`: how a file of problems is understood, and what of it would be played."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_gym.commands.console import console, say
from kv_gym.commands.options import parse_pairs

if TYPE_CHECKING:
    from kv_gym.config import EnvConfig
    from kv_gym.llm.frozen import FrozenLLM
    from kv_gym.problems import Problem
    from kv_gym.problems.recorded import Survey

SHOWN_CHARS = 600  # of each text of the first problem
SHOWN_WRONG = 20  # rows that cannot be read; the others are counted
MEASURED = 1000  # problems whose texts are turned into tokens
WITH_TRACES = "KVEvict-Traces-v0"
NOT_PLAYED = (": left out", ": refused in mode=generate")  # how reasons end for which a problem is not played
FIELDS = ("problem", "answer", "trace", "passed over", "not used")


def problems(
    file: Annotated[
        Path, typer.Argument(help="Problems: .jsonl, .json or .csv (also .gz), or .parquet.", show_default=False)
    ],
    env_id: Annotated[
        str | None,
        typer.Option("--env", help="Environment that would play them: what does not fit it is counted, too."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokens are counted. Default: the environment's LLM, without one `tiny`.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the environment, such as budget=512; repeat."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show how a file of problems is understood: fields, the first problem, lengths in tokens, and what is left out.

    Exits with 2 where a row cannot be read, or none can be played.
    """
    from kv_gym.config import make_config
    from kv_gym.errors import ConfigError
    from kv_gym.problems.recorded import none_left, survey_file

    if settings and env_id is None:
        raise ConfigError("--set changes an environment, and none is named. Add --env, such as --env KVEvict-AIME-v0.")
    config = None
    if env_id is not None:
        own = {"problems": str(file)} if model is None else {"problems": str(file), "model": model}
        config = make_config(env_id, **parse_pairs(settings or [], env=True) | own)
    survey = survey_file(file, config is not None and config.needs_trace, strict=False)
    facts = _facts(file, survey)
    if survey.problems:
        facts |= _measured(survey, config, model or "tiny")
    print(json.dumps(facts, indent=1)) if as_json else _show(facts)
    unplayed = survey.problems and facts["playable"] == 0
    if not survey.wrong and not survey.problems:
        say(none_left(survey))
    if unplayed:
        say(f"{env_id} plays none of these problems. Change its settings (--set), or give others.")
    if survey.wrong or not survey.problems or unplayed:
        raise typer.Exit(2)


# --- What there is to tell ---------------------------------------------------------------------------------------


def _facts(file: Path, survey: Survey) -> dict[str, Any]:
    """What is known without a model, as JSON values."""
    facts: dict[str, Any] = {
        "file": str(file), "unit": survey.unit, "rows": survey.n_rows,
        "problems": {split: len(found) for split, found in survey.problems.items()},
        "fields": {what: dict(survey.columns.get(what, {})) for what in FIELDS},
        "left_out": [_reason(reason, numbers) for reason, numbers in survey.left_out.items()],
        "wrong": [{"number": number, "message": message} for number, message in survey.wrong[:SHOWN_WRONG]],
        "n_wrong": len(survey.wrong),
    }  # fmt: skip
    if not survey.traces:
        facts["fields"]["trace elsewhere"] = _other_traces(file)
    if survey.problems:
        first = next(iter(survey.problems.values()))[0]
        texts = {"problem": first.prompt, "answer": first.answer, "trace": first.trace}
        facts["first"] = {"number": survey.numbers[first.id], "id": first.id, "family": first.family} | {
            name: _cut(text) for name, text in texts.items()
        }
    return facts


def _other_traces(file: Path) -> dict[str, int]:
    """Rows by the column that an environment with traces would replay, besides `trace`."""
    from kv_gym.problems.recorded import survey_file

    columns = survey_file(file, traces=True, strict=False).columns
    return {column: n for column, n in columns.get("trace", {}).items() if column.lower() != "trace"}


def _reason(reason: str, numbers: list[int]) -> dict[str, Any]:
    from kv_gym.problems.recorded import SHOWN_PLACES

    return {"reason": reason, "rows": len(numbers), "first": numbers[:SHOWN_PLACES]}


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}... ({len(text):,} characters)"


def _measured(survey: Survey, config: EnvConfig | None, model: str) -> dict[str, Any]:
    """Lengths in tokens of a model, and which problems an environment leaves out for them."""
    from kv_gym.llm.loading import load_llm
    from kv_gym.llm.prompts import Chat
    from kv_gym.problems.instructions import instructed

    chat = Chat() if config is None else Chat.of(config)
    instruction = None if config is None else config.instruction
    llm = load_llm(model) if config is None else load_llm(config.model, config.revision, config.dtype, config.device)
    every = [one for split in survey.problems.values() for one in split]
    found = [one if instruction is None else instructed(one, instruction) for one in every[:MEASURED]]
    prompts: list[int] = []
    traces: list[int] = []
    unfit: dict[str, list[int]] = {}
    n_unknown, playable = 0, len(every)
    for one in found:
        prompt, trace = llm.encode_prompt(one.prompt, chat), llm.encode(one.trace) if one.trace else []
        n_unknown += sum(ids.count(llm.tokenizer.unk_token_id) for ids in (prompt, trace))
        prompts.append(len(prompt))
        traces += [len(trace)] if trace else []
        reasons = _misfits(one, len(prompt), config, llm) if config is not None else []
        playable -= any(reason.endswith(NOT_PLAYED) for reason in reasons)
        for reason in reasons:
            unfit.setdefault(reason, []).append(survey.numbers[one.id])
    tokens = {"model": llm.name, "measured": len(found), "unknown": n_unknown / max(1, sum(prompts) + sum(traces))}
    lengths = {name: _spread(values) for name, values in (("prompt", prompts), ("trace", traces)) if values}
    reasons_found = [_reason(reason, numbers) for reason, numbers in unfit.items()]
    return {"tokens": tokens | lengths, "unfit": reasons_found, "playable": playable}


def _misfits(one: Problem, n_prompt: int, config: EnvConfig, llm: FrozenLLM) -> list[str]:
    """Why an environment does not play a problem, or not all of its trace."""
    from kv_gym.engine.reference import traced_tokens

    reasons = []
    if n_prompt > config.max_prompt_tokens:
        reasons.append(f"with a prompt of more than max_prompt_tokens={config.max_prompt_tokens}: left out")
    if not one.trace:
        return reasons
    if config.mode == "generate":
        reasons.append("with a recorded trace: refused in mode=generate")
    n_trace = len(traced_tokens(llm, one.trace, 2 * config.max_new_tokens))
    if n_trace > config.max_new_tokens:
        reasons.append(f"with a trace of more than max_new_tokens={config.max_new_tokens}: only the first are read")
    needed = config.slots + 2 * config.evict_every
    if n_prompt + min(n_trace, config.max_new_tokens) + config.max_answer_tokens < needed:
        reasons.append(f"of fewer than {needed} tokens (budget + 3 * evict_every): left out")
    return reasons


def _spread(values: list[int]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


# --- How it is told ----------------------------------------------------------------------------------------------


def _show(facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from kv_gym.show.frames import printable

    def table(*columns: str) -> Table:
        return Table(*columns, box=None, pad_edge=False, header_style="bold")

    def text(value: object, style: str = "") -> Text:
        return Text(printable(str(value)), style=style)

    terminal, unit = console(), facts["unit"]
    counts = ", ".join(f"{n:,} {split}" for split, n in facts["problems"].items()) or "none"
    terminal.print(text(f"{facts['file']}: {facts['rows']:,} rows; problems: {counts}", "bold"))
    fields = table("became", "column", "rows")
    for what, columns in facts["fields"].items():
        for column, n in columns.items() or ([("none", 0)] if what in ("problem", "answer", "trace") else []):
            fields.add_row(text(_meaning(what)), text(column), text(f"{n:,}"))
    terminal.print(fields)
    if "first" in facts:
        first = facts["first"]
        terminal.print(text(f"\nThe first, {unit} {first['number']}: {first['id']} ({first['family']})", "bold"))
        for name in ("problem", "answer", "trace"):
            if first[name]:
                terminal.print(Text.assemble((f"{name}: ", "bold"), text(first[name])))
    if "tokens" in facts:
        _show_tokens(facts["tokens"], table("\ntokens", "\nmin", "\nmedian", "\nmax"))
    rows = [*facts["left_out"], *facts.get("unfit", [])]
    if rows:
        reasons = table("\nrows", "\n", f"\nfirst {unit}s")
        for one in rows:
            reasons.add_row(text(f"{one['rows']:,}"), text(one["reason"]), text(", ".join(map(str, one["first"]))))
        terminal.print(reasons)
    for one in facts["wrong"]:
        terminal.print(text(f"{unit} {one['number']}: {one['message']}", "red"))
    if facts["n_wrong"] > len(facts["wrong"]):
        terminal.print(text(f"... and {facts['n_wrong'] - len(facts['wrong']):,} more rows that cannot be read", "red"))


def _meaning(what: str) -> str:
    told = {
        "trace elsewhere": f"trace, where one is needed ({WITH_TRACES})",
        "passed over": "nothing: comes later among answers",
        "not used": "nothing: not read",
    }
    return told.get(what, what)


def _show_tokens(tokens: dict[str, Any], table: Any) -> None:
    for name in ("prompt", "trace"):
        if name in tokens:
            values = (f"{tokens[name][key]:,.0f}" for key in ("min", "median", "max"))
            table.add_row(name, *values)
    console().print(table)
    unknown = f"; its tokenizer does not know {tokens['unknown']:.0%} of them" if tokens["unknown"] else ""
    say(f"Tokens of {tokens['model']}, of the first {tokens['measured']:,} problems{unknown}.")
