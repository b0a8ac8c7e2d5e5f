"""Scores by hand and against a loop that draws one problem at a time."""

from __future__ import annotations

import numpy as np
import pytest

from kv_gym.leaderboard.scores import Draws, EnvOutcomes, better, cell_draws, episode_weights, mean_draws, score_draws


def outcomes(agents: list, random: list, full: list, problems: list) -> EnvOutcomes:
    values = [np.array(one, dtype=float) for one in (agents, random, full)]
    return EnvOutcomes(problems, *values, played=np.ones_like(values[1], dtype=bool))


def test_first_draw_is_the_mean_over_problems_of_the_mean_over_seeds() -> None:
    weights = episode_weights(["a", "b", "b", "b"], [0], 3)
    assert weights[0] == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_draws_hold_whole_problems_and_as_many_seeds_as_each_has() -> None:
    problems = ["a", "b", "c", "b", "c", "c"]
    weights = episode_weights(problems, [0], 500)
    assert weights.sum(1) == pytest.approx(np.ones(501))
    for name, size in (("a", 1), ("b", 2), ("c", 3)):
        mine = weights[1:, [problem == name for problem in problems]]
        often, seeds = mine.sum(1) * 3, mine * 3 * size
        assert often == pytest.approx(np.round(often)) and seeds == pytest.approx(np.round(seeds))
        assert often.mean() == pytest.approx(1, abs=0.1) and often.var() == pytest.approx(2 / 3, abs=0.15)


def test_score_by_hand() -> None:
    """Random 1/4, full 4/4: accuracies of 3/4 and 2/4 are 66.7 and 33.3."""
    one = outcomes(
        agents=[[[1, 1, 1, 0], [1, 0, 0, 1]], [[1, 0, 0, 0], [0, 0, 0, 0]]],
        random=[[1, 0, 0, 0], [0, 0, 0, 1]],
        full=[[1, 1, 1, 1], [1, 1, 1, 1]],
        problems=list("abcd"),
    )
    cells, room = cell_draws(one, [0], 50)
    assert cells[..., 0] == pytest.approx(np.array([[200 / 3, 100 / 3], [0, -100 / 3]]))
    assert room[:, 0] == pytest.approx([0.75, 0.75])
    assert score_draws([cells])[:, 0] == pytest.approx([50, -50 / 3])


def test_envs_count_alike_whatever_their_budgets() -> None:
    many, few = np.full((1, 3, 2), 90.0), np.full((1, 1, 2), 30.0)
    assert score_draws([many, few]) == pytest.approx(np.full((1, 2), 60.0))


def test_draws_without_room_are_left_out_for_all_agents() -> None:
    cell = np.array([[[50.0, np.nan, 70.0]], [[10.0, np.nan, 30.0]]])
    assert score_draws([cell]) == pytest.approx(np.array([[50.0, 70.0], [10.0, 30.0]]))


def test_full_cache_is_100_and_random_0_in_every_draw() -> None:
    rng = np.random.default_rng(1)
    random, full = (rng.random((2, 40)) < [[0.3]]).astype(float), np.ones((2, 40))
    cells, _ = cell_draws(outcomes([random, full], random, full, list(range(40))), [0])
    assert cells[0] == pytest.approx(np.zeros_like(cells[0])) and cells[1] == pytest.approx(np.full_like(cells[1], 100))


def test_episodes_outside_a_cell_do_not_count() -> None:
    weights = episode_weights(["a", "b", "c"], [0], 2)
    played = np.array([[True, True, False]])
    assert mean_draws(weights, np.array([[1.0, 0.0, 9.0]]), played)[0, 0] == pytest.approx(0.5)


def loop_bootstrap(agent: np.ndarray, random: np.ndarray, full: np.ndarray, n_draws: int) -> np.ndarray:
    """Scores of draws, one problem and one seed at a time; all arrays [B, P, K]."""
    rng, scores = np.random.default_rng(7), []
    n_budgets, n_problems, n_seeds = agent.shape
    for _ in range(n_draws):
        drawn = [(p, k) for p in rng.integers(n_problems, size=n_problems) for k in rng.integers(n_seeds, size=n_seeds)]
        cells = []
        for budget in range(n_budgets):
            a, r, f = (np.mean([table[budget][place] for place in drawn]) for table in (agent, random, full))
            cells.append((a - r) / (f - r))
        scores.append(100 * np.mean(cells))
    return np.array(scores)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_intervals_are_those_of_a_slow_loop(n_seeds: int) -> None:
    rng = np.random.default_rng(3)
    hard = rng.random((1, 30, 1))  # some problems are hard for everybody
    tables = [(rng.random((2, 30, n_seeds)) < level * hard + 0.1).astype(float) for level in (0.8, 0.3)]
    full = (rng.random((2, 30, n_seeds)) < 0.95).astype(float)
    slow = loop_bootstrap(*tables, full, n_draws=2500)
    flat = [table.reshape(2, -1) for table in (*tables, full)]
    problems = np.repeat(np.arange(30), n_seeds).tolist()
    draws = score_draws([cell_draws(outcomes([flat[0]], flat[1], flat[2], problems), [0])[0]])[0]
    found = Draws(draws).interval()
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=2), pytest.approx(high, abs=2))
    assert found.high - found.low > 20
    assert draws[1:].std() == pytest.approx(slow.std(), rel=0.06)


def test_pairs_tell_apart_what_two_intervals_do_not() -> None:
    """The better one is right wherever the other is, and on 6 of 40 problems more: pairing sees it."""
    rng = np.random.default_rng(5)
    worse = (rng.random(40) < 0.4).astype(float)
    best = worse.copy()
    best[np.flatnonzero(worse == 0)[:6]] = 1
    cells, _ = cell_draws(outcomes([[best], [worse]], [[0] * 40], [[1] * 40], list(range(40))), [0])
    one, other = score_draws([cells])
    assert Draws(one).interval().low < Draws(other).interval().high
    assert better(one, other) and not better(other, one)


def test_nobody_is_better_by_rounding() -> None:
    draws = np.full(4001, 0.1 + 0.2)
    assert not better(draws, np.full(4001, 0.3))
