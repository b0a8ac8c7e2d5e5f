"""Learning curves are read from every kind of log, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kv_gym.bench.curves import columns_of, labels_of, read_curve, save_curves
from kv_gym.commands.main import main
from kv_gym.errors import ConfigError

ROWS = [
    {"step": 0, "loss": 2.0, "by_budget": {"48": 0.5}, "seconds": 1, "note": None},
    {"step": 10, "loss": 1.0, "by_budget": {"48": 0.25}, "return": float("nan"), "seconds": 2},
]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def test_logs_checkpoints_and_tables_of_others_are_read(work: Path, tmp_path: Path) -> None:
    checkpoint, table = tmp_path / "best.json", tmp_path / "sb3" / "progress.csv"
    checkpoint.write_text(json.dumps({"curve": ROWS}))
    table.parent.mkdir()
    table.write_text("time/total_timesteps,rollout/ep_rew_mean,time/fps\n32,0.5,9\n64,,9\n96,0.75,9\n")
    for place, name in ((work, "mine"), (work / "log.jsonl", "mine"), (checkpoint, "best")):
        curve = read_curve(place)
        assert (curve.name, curve.axis, curve.of("loss")) == (name, "step", ([0, 10], [2.0, 1.0]))
        assert curve.of("by_budget 48") == ([0, 10], [0.5, 0.25]) and curve.of("return") == ([], [])
    assert read_curve(checkpoint.with_suffix(".safetensors")).name == "best"
    curve = read_curve(table)
    assert curve.name == "sb3" and curve.of("rollout/ep_rew_mean") == ([32, 96], [0.5, 0.75])
    assert columns_of([curve, read_curve(work)]) == ["rollout/ep_rew_mean", "loss", "by_budget 48"]


def test_the_plot_has_a_panel_for_each_column_and_a_line_for_each_training(work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"step": 5, "loss": 3}\n')
    assert save_curves([read_curve(work), read_curve(other)], tmp_path / "plot.svg") == ["loss", "by_budget 48"]
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("loss", "by_budget 48", "mine", "other"))


def test_the_command_draws_and_tells(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["curves", str(work), "--out", str(tmp_path / "a" / "plot.png"), "--column", "loss"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("mine: 2 rows; last loss 1\nplot: ")
    assert (tmp_path / "a" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no log"), ("torn.jsonl", '{"step": 1', "nothing was logged yet"),
        ("empty.jsonl", "", "nothing was logged yet"), ("other.json", "{}", "is no log of a training"),
        ("words.jsonl", '{"loss": "low"}\n', "nothing was logged yet"),
        ("time.jsonl", '{"step": 1, "seconds": 2}\n', "nothing"),
        ("huge.jsonl", '{"loss": ' + "9" * 400 + "}\n", "is no log"),
        ("middle.jsonl", '{"st\n{"loss": 1}\n', "is no log"),
        ("list.jsonl", "[1]\n", "is no log"),
        ("bytes.jsonl", b"\xff\xfe", "is no log"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_told(name: str, content: str | bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        read_curve(tmp_path / name)


def test_odd_names_texts_and_a_last_line_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x_{$"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "a$\\\\frac$": 2, "stage": "warm"}\n{"step": 2, "a$')
    monkeypatch.chdir(folder)
    curve = read_curve(Path("."))
    assert curve.name == "x_{$" and len(curve.rows) == 1
    save_curves([curve] * 12, tmp_path / "plot.png")
    assert labels_of([curve, curve]) == ["x_{$ (1)", "x_{$ (2)"]
    (tmp_path / "sb3").mkdir()
    (tmp_path / "sb3" / "progress.csv").write_text("rollout/ep_rew_mean\n1\n")
    assert read_curve(tmp_path / "sb3").name == "sb3"


def test_names_that_cannot_be_drawn_are_told(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There are: loss, by_budget 48"):
        save_curves([read_curve(work)], tmp_path / "plot.png", ["los"])
    with pytest.raises(ConfigError, match="ends in .png"):
        save_curves([read_curve(work)], tmp_path / "plot.gif")
