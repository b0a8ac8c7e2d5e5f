"""Scissorhands: by hand."""

from __future__ import annotations

from kv_agents.heuristics.scissorhands import Scissorhands
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    LOGIT,
    MakeCache,
    MakeView,
    Memory,
    ReadOn,
    assert_scores,
    hits_cache,
    keep_everywhere,
    set_weights,
    slow_best_attention,
    slow_keep_newest,
    slow_positions,
    slow_seen,
)

from kv_gym.engine.slots import SlotView


def slow_scissorhands(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Memory: for each position, when it was seen and whether that query paid it less than average."""
    positions, scores = slow_positions(view, b, layer, head), []
    for back in reversed(range(8)):
        seen, row = slow_seen(view, b, layer, head, back), slow_best_attention(view, b, layer, head, back)
        for slot in seen:
            when = int(view.text_length[b]) - 1 - back
            memory.setdefault(positions[slot], []).append((when, row[slot] < 1 / len(seen)))
    for position in positions:
        # the history is the budget of 12 queries, rounded up to two windows of 8
        low = [was_low for when, was_low in memory[position] if when >= int(view.text_length[b]) - 16]
        scores.append(-sum(low) / len(low))
    return slow_keep_newest(scores, 10)


def test_scissorhands_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # slot 0 is low for the first query of two and slot 2 for none; the last slot, never low, has seen one
    view = make_view(hits_cache(make_cache))
    assert_scores(Scissorhands(n_recent=0).score(view), [-0.5, -1.0, 0.0, -1.0, -1.0, 0.0])
    assert_scores(Scissorhands(n_recent=2).score(view), [-0.5, -1.0, 0.0, -1.0, KEPT, KEPT])


def test_scissorhands_forgets_what_is_older_than_its_history(
    make_cache: MakeCache, make_view: MakeView, read_on: ReadOn
) -> None:
    expected = {
        2: [0.0, -1.0, -0.5, -1.0, -1.0, -1.0],  # queries 13 and 14 alone
        3: [-0.25, -0.5, -0.75, -0.6666667, -1.0, -1.0],  # rounded up to two windows: 11 to 14
        4: [-0.25, -0.5, -0.75, -0.6666667, -1.0, -1.0],
    }
    for history, scores in expected.items():
        agent, cache = Scissorhands(history, n_recent=0), hits_cache(make_cache)
        agent.score(make_view(cache))
        view = read_on(make_view(cache), keep_everywhere(cache, [0, 2, 4, 5]))  # low: 1 of 2, 0 of 2, 2 of 2, 0 of 1
        # the query at 13 is high for slots 0 and 2, that at 14 for slot 0; both query heads agree
        cache.queries.zero_()
        set_weights(cache, 0, [9.0, 1.0, 9.0, 1.0, 1.0, 1.0])
        set_weights(cache, 1, [9.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        cache.queries[0, 0, :2, -2, 0] = cache.queries[0, 0, :2, -1, 1] = LOGIT
        assert_scores(agent.score(view), scores)
