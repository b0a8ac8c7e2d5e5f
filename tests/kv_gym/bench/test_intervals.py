"""Intervals agree with scipy's bootstrap and with a slow one written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kv_gym.bench import intervals
from kv_gym.bench.intervals import difference_interval, mean_interval, proportion_interval, ratio_interval

RNG = np.random.default_rng(7)
VALUES = RNG.gamma(2.0, size=40)
PROBLEMS = [f"p{i}" for i in range(40)]


def slow_draws(values: dict[str, list[float]], n: int = 20_000) -> np.ndarray:
    """Means of hierarchical bootstrap samples, one at a time."""
    rng, names, means = np.random.default_rng(1), list(values), []
    for _ in range(n):
        drawn = [values[names[i]] for i in rng.integers(len(names), size=len(names))]
        means.append(np.mean([np.mean(rng.choice(seeds, size=len(seeds))) for seeds in drawn]))
    return np.array(means)


def test_mean_interval_agrees_with_scipy() -> None:
    ours = mean_interval(list(VALUES), PROBLEMS)
    theirs = stats.bootstrap((VALUES,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert ours is not None
    assert ours.value == pytest.approx(VALUES.mean())
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_ratio_interval_agrees_with_scipy() -> None:
    top, bottom = VALUES, VALUES * RNG.uniform(0.5, 1.5, size=40)
    ours = ratio_interval(list(top), list(bottom), PROBLEMS)
    theirs = stats.bootstrap(
        (top, bottom), lambda a, b, axis: a.mean(axis) / b.mean(axis), paired=True, method="percentile",
        n_resamples=20_000, rng=0,
    ).confidence_interval  # fmt: skip
    assert ours is not None
    assert ours.value == pytest.approx(top.mean() / bottom.mean())
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_seeds_are_drawn_inside_their_problem() -> None:
    values = {f"p{i}": list(RNG.normal(i % 3, 1.0, size=1 + i % 4)) for i in range(12)}
    flat = [(value, name) for name, seeds in values.items() for value in seeds]
    flat = [flat[i] for i in RNG.permutation(len(flat))]  # their order does not matter
    ours = mean_interval([value for value, _ in flat], [name for _, name in flat])
    low, high = np.quantile(slow_draws(values), [0.025, 0.975])
    assert ours is not None
    assert ours.value == pytest.approx(np.mean([np.mean(seeds) for seeds in values.values()]))
    assert [ours.low, ours.high] == pytest.approx([low, high], abs=0.04)


def test_repeating_a_seed_is_no_evidence() -> None:
    """Ten equal seeds of each problem leave the doubt as it is; ten times the problems would not."""
    once = mean_interval(list(VALUES), PROBLEMS)
    repeated = mean_interval(list(np.repeat(VALUES, 10)), list(np.repeat(PROBLEMS, 10)))
    assert once is not None and repeated is not None
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.06)


def test_pairing_removes_what_is_hard_for_both() -> None:
    theirs = list(VALUES * 10)
    ours = [value + 1 + 0.01 * i for i, value in enumerate(theirs)]
    paired = difference_interval(ours, theirs, PROBLEMS)
    assert paired is not None
    assert paired.value == pytest.approx(1.195)
    assert 1.1 < paired.low < paired.value < paired.high < 1.3
    alone = mean_interval(ours, PROBLEMS)
    assert alone is not None and alone.high - alone.low > 10 * (paired.high - paired.low)


def test_a_constant_has_no_doubt_but_a_proportion_has() -> None:
    assert mean_interval([2.0] * 5, PROBLEMS[:5]) == intervals.Interval(2.0, 2.0, 2.0)
    none_right, all_right = (proportion_interval([right] * 32, PROBLEMS[:32]) for right in (False, True))
    assert none_right is not None and all_right is not None
    exact = stats.binomtest(0, 32).proportion_ci(method="exact")
    assert (none_right.low, none_right.high) == pytest.approx((exact.low, exact.high))
    exact = stats.binomtest(32, 32).proportion_ci(method="exact")
    assert (all_right.low, all_right.high) == pytest.approx((exact.low, exact.high))


def test_seeds_do_not_narrow_the_exact_interval() -> None:
    many = proportion_interval([False] * 32, [f"p{i % 4}" for i in range(32)])
    assert many == proportion_interval([False] * 4, PROBLEMS[:4])


def test_a_proportion_in_between_is_the_bootstrap() -> None:
    right = [True, False, True, True]
    assert proportion_interval(right, PROBLEMS[:4]) == mean_interval([1.0, 0.0, 1.0, 1.0], PROBLEMS[:4])


def test_the_same_call_gives_the_same_interval_whatever_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mean_interval(list(VALUES), PROBLEMS)
    assert before == mean_interval(list(VALUES), PROBLEMS)
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 1000)
    assert mean_interval(list(VALUES), PROBLEMS) == before


def test_nothing_has_no_interval() -> None:
    assert mean_interval([], []) is None
    assert proportion_interval([], []) is None
    assert ratio_interval([], [], []) is None
    assert ratio_interval([1.0, 2.0], [0.0, 0.0], ["a", "b"]) is None
    some = ratio_interval([1.0, 2.0], [0.0, 4.0], ["a", "b"])  # samples without any bottom are passed over
    assert some is not None and some.value == 0.75 and np.isfinite([some.low, some.high]).all()
