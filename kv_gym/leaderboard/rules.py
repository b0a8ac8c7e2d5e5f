"""Which protocol a submission played, and in what that differs from the board's."""

from __future__ import annotations

from collections.abc import Iterator

from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.submission import ReadSubmission, Submission


def rules_of(submission: Submission, board: Protocol) -> Protocol:
    """What a submission should have played: the board's protocol, or what is left of it in a trial."""
    reduced = submission.reduced
    return board.reduced(reduced.problems, reduced.budgets) if submission.trial and reduced else board


def trial_text(submission: Submission) -> str:
    """What a trial played, for people."""
    reduced = submission.reduced
    if reduced is None:
        return "played something else than the protocol"
    problems = f"{reduced.problems} problems an environment" if reduced.problems else "all problems"
    budgets = f"budgets {', '.join(map(str, reduced.budgets))}" if reduced.budgets else "all budgets"
    return f"played {problems} at {budgets}"


def protocol_differences(found: ReadSubmission, rules: Protocol) -> Iterator[str]:
    """In what the played protocol differs: it is known by its name and hash, the rest shows in the episodes."""
    submission = found.submission
    if submission.protocol != rules.id:
        yield f"it played protocol {submission.protocol}; this one is {rules.id}"
    if submission.protocol_sha256 == rules.sha256:
        return
    allowed = {(cell.env_id, budget): cell.problems * rules.seeds for cell in rules.cells for budget in cell.budgets}
    played = {(cell.env_id, cell.budget): cell.n_episodes for cell in submission.cells}
    shown = [
        *(f"{env} at budget {budget}, which this protocol has not" for env, budget in sorted(played.keys() - allowed)),
        *(f"nothing of {env} at budget {budget}" for env, budget in sorted(allowed.keys() - played)),
        *(
            f"{n} episodes of {cell[0]} at budget {cell[1]}, where this protocol has up to {allowed[cell]}"
            for cell, n in played.items()
            if cell in allowed and n != allowed[cell]
        ),
    ]
    yield from (f"it played {each}" for each in shown[:5])
    hashes = f"sha256 {submission.protocol_sha256[:12]}..., not {rules.sha256[:12]}..."
    if shown:
        yield f"the protocols' hashes differ ({hashes})"
    else:
        yield f"its cells are those of {rules.id}, but model, split, seeds or number of problems are others ({hashes})"
