"""Two rankings are compared as scipy does it, over the problems that all agents share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau
from test_report import make_cell, make_row, make_run

from kv_gym.bench.agreement import Ranked, agree, rank, rules, tau_b
from kv_gym.bench.plots import _draw_ranked, new_figure
from kv_gym.bench.rows import EpisodeRow, packed
from kv_gym.commands import main as cli
from kv_gym.errors import ConfigError, UnknownNameError


def world(**loss: float) -> list[EpisodeRow]:
    """Agents with a loss each; the full cache has 0.5."""
    return [row for agent, value in loss.items() for row in make_cell(agent, 4, loss=value)]


def test_tau_is_scipys() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 5, (7, 20)).astype(float), draw.integers(0, 5, (7, 20)).astype(float)
    wanted = [kendalltau(one[:, i], other[:, i]).statistic for i in range(20)]
    np.testing.assert_allclose(tau_b(one, other), wanted, atol=1e-12)
    assert tau_b(np.ones((4, 1)), np.arange(4.0)[:, None]).tolist() == [0.0]


def test_less_loss_is_better_and_a_ratio_is_of_means() -> None:
    found = rank(world(a=1.0, b=3.0), ("a", "b"), 64, "loss_ratio")
    assert found is not None and found.values.tolist() == [-2.0, -6.0] and found.n_problems == 8
    right = rank(world(a=1.0, b=3.0), ("a", "b"), 64, "accuracy")
    assert right is not None and right.values.tolist() == [0.5, 0.5]


def test_opposite_worlds_have_tau_minus_one() -> None:
    agents = ("a", "b", "c")
    one, same = (
        rank(world(a=1, b=2, c=3), agents, 64, "loss_ratio"),
        rank(world(a=2, b=3, c=4), agents, 64, "loss_ratio"),
    )
    other = rank(world(a=3, b=2, c=1), agents, 64, "loss_ratio")
    assert one is not None and same is not None and other is not None
    assert agree(one, same).tau.value == 1 and agree(one, other).tau.value == -1
    assert agree(one, other).tau.low == agree(one, other).tau.high == -1  # no problem says otherwise


def test_the_interval_knows_what_problems_disagree_on() -> None:
    rows = [make_row(i, agent, mode="replay", loss=loss, loss_full=1.0) for i in range(8)
            for agent, loss in (("a", 2.0), ("b", 2.1 if i % 2 else 1.9), ("c", 5.0))]  # fmt: skip
    unsure, sure = (
        rank(rows, ("a", "b", "c"), 64, "loss_ratio"),
        rank(world(a=1, b=2, c=3), ("a", "b", "c"), 64, "loss_ratio"),
    )
    assert unsure is not None and sure is not None
    tau = agree(sure, unsure).tau
    assert tau.low == pytest.approx(1 / 3) and tau.high == 1


def test_only_problems_that_all_agents_played_count() -> None:
    rows = world(a=1.0, b=2.0)
    rows = [row for row in rows if (row.agent, row.mode, row.problem) != ("b", "replay", "p3")]
    found = rank(rows, ("a", "b"), 64, "loss_ratio")
    assert found is not None and found.n_problems == 7
    assert rank(rows, ("a", "b"), 128, "loss_ratio") is None
    with pytest.raises(UnknownNameError, match="loss_ratio"):
        rank(rows, ("a", "b"), 64, "los_ratio")


def test_rules_are_those_in_both_that_nobody_trained() -> None:
    names = {"rkv": 1.0, "snapkv": 2.0, "random": 3.0, "transfer": 4.0, "foresight[mine]": 4.0}
    one = world(**names) + make_cell("golden", 4, uses_hindsight=True) + make_cell("full", 4, evicts=False)
    other = world(**names, tova=1.0) + make_cell("golden", 4, uses_hindsight=True)
    assert rules(one, other) == ("random", "rkv", "snapkv")
    assert rules(one, other, ["transfer", "rkv", "golden"]) == ("golden", "rkv", "transfer")
    with pytest.raises(UnknownNameError, match="agent 'tova' of both sets"):
        rules(one, other, ["tova"])
    with pytest.raises(ConfigError, match="a ranking needs 3"):
        rules(world(rkv=1, tova=2), world(rkv=1, tova=2))


def test_the_command_prints_tau_by_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, losses in (("one", (1, 2, 3)), ("other", (3, 2, 1))):
        rows = world(**dict(zip(("rkv", "tova", "random"), losses, strict=True)))
        (tmp_path / name).mkdir()
        path = tmp_path / name / "rows.jsonl"
        path.write_bytes(packed([make_run(), *rows], path))
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["agreement", str(tmp_path / "one"), str(tmp_path / "other"), *extra])
        assert ended.value.code == 0
        told = capsys.readouterr().out
        if extra:
            (found,) = json.loads(told)
            assert found["tau"]["value"] == -1 and found["agents"]["rkv"] == [2.0, 6.0]
        else:
            assert "-1.00 [-1.00, -1.00]" in told and "64 (8 problems)" in told and "rkv" in told
    with pytest.raises(SystemExit) as ended:
        cli.main(["agreement", str(tmp_path / "one"), str(tmp_path / "other"), "--budget-a", "7"])
    assert ended.value.code == 2 and "no budget at which all of" in capsys.readouterr().err


def save_worlds(folder: Path) -> list[str]:
    """Two sets of rows that rank three rules in opposite order; the first at two budgets."""
    for name, losses, budgets in (("one", (1, 2, 3), (64, 96)), ("other", (3, 2, 1), (64,))):
        rows = world(**dict(zip(("rkv", "tova", "random"), losses, strict=True)))
        (folder / name).mkdir()
        path = folder / name / "rows.jsonl"
        every = [row.model_copy(update={"budget": budget}) for budget in budgets for row in rows]
        path.write_bytes(packed([make_run(), *every], path))
    return ["agreement", str(folder / "one"), str(folder / "other")]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ([], "is of one pair of budgets"),
        (["--budget-a", "64", "--title", "small"], "--title was given 1 times"),
        (["--budget-a", "64", "--plot", "it.gif"], "use a name that ends in"),
        (["--budget-a", "64"], ""),
    ],
)
def test_two_rankings_are_drawn(
    more: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "it.svg"
    with pytest.raises(SystemExit) as ended:
        cli.main([*save_worlds(tmp_path), "--plot", str(picture), *more])
    assert complaint in capsys.readouterr().err and ended.value.code == (2 if complaint else 0)
    assert picture.exists() == (not complaint)


def test_the_drawing_has_the_numbers_in_the_order_of_the_first() -> None:
    ranked = rank(world(a=2.0, b=1.0, c=3.0), ("a", "b", "c"), 64, "loss_ratio")
    assert ranked is not None
    axes = new_figure(4, 4).add_subplot()
    _draw_ranked(axes, ranked, ranked.values.argsort(), "a world")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "a", "b"]  # from below: the best on top
    assert axes.lines[0].get_xdata().tolist() == [6.0, 4.0, 2.0]  # type: ignore[union-attr]
    assert axes.get_title(loc="left") == "a world\n64 slots, 8 problems"


def test_an_interval_of_a_measure_may_cross_zero() -> None:
    """Less is better, so values are kept with the other sign; an increase may be a decrease in some samples."""
    draws = -np.array([np.linspace(-1.0, 3.0, 4001)])
    ranked = Ranked("long_range", 64, ("a",), np.array([-1.0]), draws, 8)
    (found,) = ranked.intervals
    assert (found.value, found.low, found.high) == pytest.approx((1.0, -0.9, 2.9))
    axes = new_figure(4, 4).add_subplot()
    _draw_ranked(axes, ranked, ranked.values.argsort(), "a world")
    (line,) = axes.collections[0].get_segments()  # type: ignore[attr-defined]
    assert line[:, 0].tolist() == pytest.approx([-0.9, 2.9])
