"""Submissions whose outcomes are written out by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.rank import Board, build_board
from kv_gym.leaderboard.submission import (
    ReadSubmission,
    Submission,
    SubmittedAgent,
    SubmittedEpisode,
    System,
    summarise,
)

Outcomes = Mapping[tuple[str, int], Sequence[float] | Sequence[Sequence[float]]]
UNSAID = "b" * 64
ENV, OTHER = "KVEvict-AIME-v0", "KVEvict-Code-v0"


def protocol(budgets: Mapping[str, Sequence[int]], problems: int, seeds: int = 1) -> Protocol:
    """A protocol of these cells."""
    cells = [
        {"env_id": env_id, "model": "tiny", "budgets": list(one), "problems": problems}
        for env_id, one in budgets.items()
    ]
    return Protocol.model_validate({"id": "kv-gym-1", "split": "test", "seeds": seeds, "width": 64, "cells": cells})


def board(found: Iterable[ReadSubmission], rules: Protocol) -> Board:
    """Rank submissions that were played by these rules, unless they say another hash."""
    played = [
        replace(one, submission=one.submission.model_copy(update={"protocol_sha256": rules.sha256}))
        if one.submission.protocol_sha256 == UNSAID
        else one
        for one in found
    ]
    return build_board(played, rules)


def submission(slug: str, right: Outcomes, full: float = 1.0, **changed: Any) -> ReadSubmission:
    """A submission of the agent `slug`, for `board`.

    Args:
        slug: Also its title.
        right: Scores of the problems of each (env, budget); or of the seeds of each problem.
        full: Score of the full cache, everywhere.
        changed: Fields of the submission; those of its agent as `agent_...`; `link` is not checked.
    """
    agent = {
        "name": slug, "source": f"kv_agents.{slug}:Agent", "sha256": "a" * 64, "options": {}, "uses_hindsight": False,
        "evicts": True, "kind": "installed", "trained": "", "file": "", "class_name": "Agent",
    } | {key.removeprefix("agent_"): value for key, value in changed.items() if key.startswith("agent_")}  # fmt: skip
    fields = {
        "title": slug, "slug": slug, "date": "2026-11-23", "authors": ["somebody"], "link": "", "division": "closed",
        "trial": False, "protocol": "kv-gym-1", "protocol_sha256": UNSAID, "models": {"tiny": "c" * 64},
        "command": f"kv-gym submit {slug}", "git": {"commit": "d" * 40, "dirty": False},
        "versions": {"kv_gym": "0.1.0", "torch": "2.13.0"}, "threads": 1, "width": 64, "references_sha256": "e" * 64,
    } | {key: value for key, value in changed.items() if not key.startswith("agent_")}  # fmt: skip
    forced = {"link": fields.pop("link")}
    episodes = [
        _episode(cell, problem, seed, one, full)
        for cell, outcomes in right.items()
        for problem, scores in enumerate(outcomes)
        for seed, one in enumerate(scores if isinstance(scores, Sequence) else [scores])
    ]
    hardware = {"cpu": "a CPU", "cores": 2, "platform": "Linux", "device": "cpu"}
    system = {"hardware": hardware, "versions": fields["versions"], "threads": 1, "platform": "Linux"}
    return ReadSubmission(
        Path(f"{fields['date']}_{slug}"),
        Submission(**fields, agent=SubmittedAgent(**agent), cells=summarise(episodes)).model_copy(update=forced),
        episodes,
        System.model_validate(system),
    )


def _episode(cell: tuple[str, int], problem: int, seed: int, correct: float, full: float) -> SubmittedEpisode:
    return SubmittedEpisode.model_validate(
        {
            "env_id": cell[0], "budget": cell[1], "problem": f"{cell[0]}/{problem}", "seed": seed, "correct": correct,
            "correct_full": full, "tokens": 200, "steps": 8, "stop": "eos", "kv_slots_mean": cell[1] + 8.0,
            "kv_slots_peak": cell[1] + 16, "tokens_sha256": "f" * 64, "actions_sha256": "0" * 64,
            "family": ("graph", "ledger")[problem % 2], "seconds": 2.0, "scoring_seconds": 0.5, "failed": None,
        }
    )  # fmt: skip
