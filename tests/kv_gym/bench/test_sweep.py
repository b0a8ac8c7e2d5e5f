"""Combinations by hand, and a sweep whose points are those of a benchmark of each setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_gym.agents import load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.intervals import Interval
from kv_gym.bench.plan import Bench
from kv_gym.bench.report import build_report
from kv_gym.bench.sweep import Point, points, save_sweep_plot, settings
from kv_gym.commands import main as cli
from kv_gym.commands.sweep import parse_over
from kv_gym.errors import ConfigError

OPTIONS = {"evict_every": 16, "max_new_tokens": 400}


def test_all_combinations_the_last_option_fastest() -> None:
    over = parse_over(["lam=0,0.5", "n_obs=8,16"], {})
    assert over == {"lam": [0, 0.5], "n_obs": [8, 16]}
    assert settings(over) == [
        {"lam": 0, "n_obs": 8}, {"lam": 0, "n_obs": 16}, {"lam": 0.5, "n_obs": 8}, {"lam": 0.5, "n_obs": 16},
    ]  # fmt: skip
    assert parse_over(["checkpoint=foresight,seeds/foresight-rl-0"], {}) == {
        "checkpoint": ["foresight", "seeds/foresight-rl-0"]
    }


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["lam"], "is no option with values"),
        (["lam="], "is no option with values"),
        (["lam=1", "lam=2"], "lam is given already"),
        (["n_obs=1"], "n_obs is given already"),
    ],
)
def test_what_is_no_sweep_is_refused(texts: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_over(texts, {"n_obs": 8})


def test_too_many_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="225 settings are more than 200"):
        settings({"a": range(15), "b": range(15)})
    with pytest.raises(ConfigError, match="at least one option"):
        settings({})


def test_points_are_those_of_a_benchmark_of_each(tmp_path: Path) -> None:
    chosen = settings({"lam": [0.0, 0.9]})
    agents = [load_agent("rkv", **options) for options in chosen]
    plan = Bench("KVEvict-AIME-v0", agents, [64], 3, modes=["replay"], width=3, options=OPTIONS)
    result = run_bench(plan, tmp_path / "rows.jsonl")
    found = points(plan, result, chosen)
    assert [(point.options["lam"], point.budget) for point in found] == [(0.0, 64), (0.9, 64)]
    for point, agent in zip(found, agents, strict=True):
        alone = run_bench(
            Bench("KVEvict-AIME-v0", [agent], [64], 3, modes=["replay"], width=3, options=OPTIONS),
            tmp_path / "rows.jsonl",
        )
        assert alone.n_new == 0
        (cell,) = build_report(alone.rows, alone.runs).cells
        assert point.loss_ratio == cell.measures["loss_ratio"]
    assert found[0].loss_ratio != found[1].loss_ratio


def test_the_command_keeps_its_rows_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "sweep.svg"
    line = "sweep KVEvict-AIME-v0 --agent rkv,n_obs=4 --over lam=0,0.9 --budget 64 --problems 2 --width 2 --mode replay"
    line += f" --set evict_every=16 --set max_new_tokens=400 --out {tmp_path} --plot {picture}"
    for known in ("4 new rows, 0 known", "0 new rows, 4 known"):
        with pytest.raises(SystemExit) as ended:
            cli.main(line.split())
        out, err = capsys.readouterr()
        assert ended.value.code == 0 and known in err, err
        assert "lam" in out and "0.9" in out
    assert "lam" in picture.read_text() or picture.stat().st_size > 5000


def test_pictures_of_one_and_two_options(tmp_path: Path) -> None:
    some = Interval(0.5, 0.4, 0.6)
    one = [Point({"a": value}, budget, some, None) for budget in (64, 96) for value in ("x", "y")]
    two = [Point({"a": a, "b": b}, 64, None, some) for a in (1, 2) for b in (3, 4, 5)]
    for name, found in (("one", one), ("two", two)):
        save_sweep_plot(found, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match="one option or two"):
        save_sweep_plot([Point({"a": 1, "b": 2, "c": 3}, 64, some, None)], tmp_path / "three.png")
