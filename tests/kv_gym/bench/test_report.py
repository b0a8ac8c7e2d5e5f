"""Reports say what the rows say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from rich.console import Console

from kv_gym.bench import plots
from kv_gym.bench.plots import COLOURS, OTHERS, draw, looks_of, new_figure, save_plot
from kv_gym.bench.report import Report, build_report, newest_rows
from kv_gym.bench.rows import EpisodeRow, Rows, RunRow
from kv_gym.bench.tables import failures, markdown, notes, short
from kv_gym.commands.console import report_view

N = 8


def make_run(**changes: Any) -> RunRow:
    values = {
        "started": "2026-01-01T00:00:00+00:00", "command": "kv-gym bench", "versions": {}, "git": None, "hardware": {},
        "threads": 1, "width": 4, "model": {}, "settings": {}, "settings_sha256": "s", "plan": {},
        "left_out": {64: ["p9"], 128: []},
    }  # fmt: skip
    return RunRow.model_validate(values | changes).signed()


def make_row(problem: int, agent: str = "a", **changes: Any) -> EpisodeRow:
    values = {
        "run_id": make_run().run_id, "env_id": "E-v0", "mode": "generate", "split": "test", "agent": agent,
        "budget": 64,
        "agent_source": f"m:{agent}", "agent_sha256": "h", "uses_hindsight": False, "evicts": True, "evict_every": 8,
        "seed": 0, "problem": f"p{problem}", "family": ("even", "odd")[problem % 2], "correct": True,
        "correct_full": True, "reference_hash": "r", "problem_sha256": "q", "model": "tiny", "model_fingerprint": "w",
        "settings_sha256": "s",
    }  # fmt: skip
    return EpisodeRow.model_validate(values | changes)


def make_cell(agent: str, right: int, budget: int = 64, loss: float = 2.0, **changes: Any) -> list[EpisodeRow]:
    """Both modes of one agent: the first `right` of N problems are solved, the full cache solves six."""
    common = {"agent": agent, "budget": budget, **changes}
    cost = {"kv_bytes_peak": 2**20, "kv_bytes_mean": 2**19, "seconds": 2.0, "tokens_per_second": 100.0}
    losses = {"loss": loss, "loss_full": 0.5, "loss_spike": loss / 4}
    losses |= {"missed_attention": 0.25, "attention_spike": 0.125}
    losses |= {"loss_low": 3 * loss, "loss_low_full": 0.5, "loss_high": 5 * loss, "loss_high_full": 0.5}
    generate = [make_row(i, correct=i < right, correct_full=i < 6, **cost, **common) for i in range(N)]
    replay = {"mode": "replay", "correct": True}  # what replay says about answers is not the accuracy
    return generate + [make_row(i, correct_full=i < 6, **replay, **losses, **common) for i in range(N)]


@pytest.fixture
def episodes() -> list[EpisodeRow]:
    rows: list[EpisodeRow] = []
    for budget, good, bad in ((64, 4, 0), (128, 5, 2)):
        rows += make_cell("bad", bad, budget) + make_cell("good", good, budget, loss=1.0)
        rows += make_cell("golden", 6, budget, loss=0.5, uses_hindsight=True)
        rows += make_cell("full", 6, budget, loss=0.5, evicts=False)
    return rows


@pytest.fixture
def report(episodes: list[EpisodeRow]) -> Report:
    return build_report(episodes, [make_run()])


def printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(report_view(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_numbers_by_hand(report: Report) -> None:
    cell = report.cell("good", 128)
    assert cell is not None and cell.accuracy and cell.retained
    assert cell.accuracy.value == 5 / 8 and cell.full_accuracy == 6 / 8
    assert cell.retained.value == pytest.approx(5 / 6)
    expected = {
        "loss_spike": 0.25, "attention_spike": 0.125, "loss_ratio": 2.0, "loss_ratio_low": 6.0, "loss_ratio_high": 10.0,
        "missed_attention": 0.25,
    }  # fmt: skip
    found = {name: interval and interval.value for name, interval in cell.measures.items()}
    assert expected.items() <= found.items()
    assert (cell.kv_bytes_peak, cell.kv_bytes_mean, cell.tokens_per_second) == (2**20, 2**19, 100)
    assert (cell.n_problems, cell.n_episodes, cell.n_failed) == (8, 8, 0)
    families = {family: interval and interval.value for family, interval in cell.families.items()}
    assert families == {"even": 0.75, "odd": 0.5}
    assert 0 < cell.accuracy.low < 5 / 8 < cell.accuracy.high <= 1


def test_ranked_agents_come_first_then_hindsight_then_the_full_cache(report: Report) -> None:
    assert report.agents == ["good", "bad", "golden", "full"]
    assert [cell.agent for cell in report.cells if not cell.ranked] == ["golden", "golden", "full", "full"]
    assert report.budgets == [64, 128] and report.left_out == {64: ["p9"], 128: []}


def test_agents_are_compared_to_the_best_on_the_same_problems(report: Report) -> None:
    best, other, golden = (report.cell(agent, 64) for agent in ("good", "bad", "golden"))
    assert best is not None and best.versus_best is None
    assert other is not None and other.versus_best is not None
    assert other.versus_best.value == -0.5 and other.versus_best.high < 0
    assert golden is not None and golden.versus_best is not None and golden.versus_best.value == 0.25
    assert golden.versus_best.low == 0  # golden solves all that the best solves, so no sample puts it behind


def test_nothing_right_keeps_its_doubt(report: Report) -> None:
    cell = report.cell("bad", 64)
    assert cell is not None and cell.accuracy and cell.retained
    assert cell.accuracy.value == cell.retained.value == 0
    assert cell.retained.high == pytest.approx(cell.accuracy.high * 8 / 6) and cell.accuracy.high > 0.3


def test_failed_episodes_count_as_wrong_and_are_shown() -> None:
    rows = make_cell("mine", 8)
    rows[0] = make_row(0, "mine", correct=None, failed="ScoreError: keep scores are NaN")
    rows[8] = make_row(0, "mine", mode="replay", correct=None, failed="ScoreError: keep scores are NaN")
    report = build_report(rows, [make_run()])
    (cell,) = report.cells
    assert cell.accuracy and cell.accuracy.value == 7 / 8 and cell.n_failed == 2
    spike = cell.measures["loss_spike"]
    assert spike and spike.value == 0.5  # over those that were measured
    reason = "ScoreError: keep scores are NaN"
    assert failures(report) == [f"mine, budget 64: 2 episodes failed and count as wrong. {reason}"]
    assert "!88 [" in printed(report) and "ScoreError" in printed(report)


def test_a_cell_that_failed_altogether_still_has_a_report() -> None:
    modes = ("generate", "replay")
    rows = [make_row(i, "mine", mode=mode, correct=None, failed="E: x") for i in range(3) for mode in modes]
    report = build_report(rows, [make_run()])
    assert report.cells[0].accuracy and report.cells[0].accuracy.value == 0
    assert report.cells[0].measures["loss_ratio"] is None and report.cells[0].tokens_per_second is None
    assert "!0 [" in printed(report)


def test_speed_weighs_episodes_by_their_time() -> None:
    rows = [make_row(0, seconds=3.0, tokens_per_second=10.0), make_row(1, seconds=1.0, tokens_per_second=50.0)]
    assert build_report(rows, [make_run()]).cells[0].tokens_per_second == 20.0


def test_without_generated_answers_accuracy_is_that_of_the_replay(episodes: list[EpisodeRow]) -> None:
    report = build_report([row for row in episodes if row.mode == "replay"], [make_run()])
    assert report.accuracy_mode == "replay"
    assert "Accuracy of the answer after the replayed trace" in printed(report)
    generated = build_report([row for row in episodes if row.mode == "generate"], [make_run()])
    assert "Loss" not in printed(generated)


def test_two_agents_with_one_name_are_told_apart() -> None:
    rows = make_cell("same", 3) + make_cell("same", 5, agent_source="mine.py:Same")
    assert build_report(rows, [make_run()]).agents == ["same (mine.py:Same)", "same (m:same)"]


def test_the_newest_settings_and_agent_versions_are_chosen() -> None:
    old = make_cell("a", 1, settings_sha256="old") + make_cell("b", 1, agent_sha256="old")
    new = make_cell("b", 2) + make_cell("a", 3)
    rows = Rows({make_run().run_id: make_run()}, {row.key: row for row in old + new})
    assert newest_rows(rows) == new
    assert newest_rows(Rows({}, {})) == []
    report = build_report(newest_rows(rows), rows.runs.values(), n_other=len(old))
    assert "32 rows of other settings, models or agent versions" in "\n".join(notes(report))


def test_only_runs_behind_the_rows_are_reported() -> None:
    other = make_run(command="other")
    assert build_report([make_row(0)], [other, make_run()]).runs == [make_run().model_dump(mode="json")]


def test_mixed_commits_are_told() -> None:
    runs = [make_run(git={"commit": c * 40, "dirty": False}) for c in "ab"]
    report = build_report([make_row(i, run_id=run.run_id) for i, run in enumerate(runs)], runs)
    assert "Rows come from different commits: aaaaaaaa, bbbbbbbb." in notes(report)


def test_fewer_problems_are_told() -> None:
    rows = [make_row(i, budget=budget) for budget, n in ((64, 3), (128, 5)) for i in range(n)]
    rows += [make_row(i, "b", budget=128) for i in range(4)] + [make_row(i, "b") for i in range(3)]
    report = build_report(rows, [make_run(left_out={})])
    said = "Accuracy of fewer problems: 3 at budget 64, 4 for b at budget 128."
    assert said in notes(report) and said in markdown(report)
    other = build_report([*rows, *make_cell("c", 1)[N:]], [make_run()])  # replayed only
    assert not any("0 for" in line for line in notes(other))
    assert not any("fewer" in line for line in notes(build_report(rows[:3], [make_run()])))


def test_what_any_run_left_out_is_told() -> None:
    runs = [make_run(command=str(problems), left_out={64: problems}) for problems in (["p9"], [])]
    report = build_report([make_row(i, run_id=run.run_id) for i, run in enumerate(runs)], runs)
    said = "Left out, too short or too long to play: 1 at budget 64."
    assert said in notes(report) and said in markdown(report)


def test_tables_show_agents_by_budget(report: Report) -> None:
    lines = printed(report).splitlines()
    (heading,) = [i for i, line in enumerate(lines) if line.startswith("Accuracy, %")]
    assert lines[heading + 2].split() == ["agent", "64", "128"]
    good = next(line for line in lines[heading:] if line.startswith(" good"))
    assert good.split()[1] == "50" and "62 [" in good
    names = [line.split()[0] for line in lines[heading + 4 : heading + 9] if line.strip()]
    assert names == ["good", "bad", "golden", "full"]
    assert "golden (hindsight)" in printed(report) and "1.00 · 100" in printed(report)
    assert "Left out, too short or too long to play: 1 at budget 64." in printed(report)


def test_the_best_and_its_equals_are_bold(report: Report) -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="standard")
    console.print(report_view(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1m50 [" in text  # good at 64
    assert "\x1b[1m0 [" not in text  # bad at 64
    assert "\x1b[1m75 [" not in text  # references


def test_json_holds_everything_and_is_strict(report: Report) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["cells"][0]["agent"] == "good" and data["cells"][0]["accuracy"]["value"] == 0.5
    assert data["runs"][0]["run_id"] == make_run().run_id
    assert data["cells"][0]["families"]["odd"]["value"] == 0.5


@pytest.mark.parametrize("budgets", [[64], [64, 128]])
def test_the_plot_is_a_png_that_is_not_empty(episodes: list[EpisodeRow], tmp_path: Path, budgets: list[int]) -> None:
    path = tmp_path / "plots" / "accuracy.png"
    save_plot(build_report([row for row in episodes if row.budget in budgets], [make_run()]), path)
    pixels = image.imread(path)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    colours = {tuple((255 * pixel[:3]).astype(int)) for row in pixels[::3] for pixel in row[::3]}
    for colour, _ in looks_of(["good", "bad"]).values():  # a line for each ranked agent
        assert tuple(bytes.fromhex(colour[1:])) in colours


def test_one_budget_is_bars_and_several_are_curves(episodes: list[EpisodeRow], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure.axes[0]))
    for budgets in ([64], [64, 128]):
        save_plot(build_report([row for row in episodes if row.budget in budgets], [make_run()]), Path("a.png"))
    bars, curves = drawn
    assert [text.get_text() for text in bars.get_yticklabels()] == ["golden (hindsight)", "bad", "good"]
    assert [round(bar.get_width()) for bar in bars.patches] == [75, 0, 50] and not curves.patches
    assert "64 slots" in bars.get_xlabel() and "beside each other" in curves.get_xlabel()


def test_golden_stands_at_the_budget_and_the_others_near_it(episodes: list[EpisodeRow]) -> None:
    axes = new_figure(4, 4).add_subplot()
    draw(axes, build_report(episodes, [make_run()]))
    places = {str(line.get_label()): list(line.get_xdata()) for line in axes.lines}  # type: ignore[arg-type]
    assert places["golden (hindsight)"] == [64, 128]
    for agent in ("good", "bad"):
        assert all(0 < abs(x / budget - 1) < 0.025 for x, budget in zip(places[agent], (64, 128), strict=True))


def test_a_results_page_has_tables_and_the_runs_behind_them(episodes: list[EpisodeRow]) -> None:
    run = make_run(
        git={"commit": "abcdef0123", "dirty": True}, versions={"torch": "2", "transformers": "5"}, hardware={"cpu": "X"}
    )
    rows = [row.model_copy(update={"run_id": run.run_id}) for row in episodes]
    lines = markdown(build_report(rows, [run])).splitlines()
    assert lines[0] == "# Results on E-v0" and lines[2].startswith("8 problems of the test split, model `tiny`.")
    assert "| accuracy, % | 64 | 128 |" in lines and any(line.startswith("| *golden* | 75 [") for line in lines)
    assert any(line.startswith("| good | 2.00 [") for line in lines), "loss ratio"
    assert lines[-1] == "- `kv-gym bench` (commit abcdef01 (changed), torch 2, transformers 5, 1 threads, X)"
    generated = markdown(build_report([row for row in rows if row.mode == "generate"], [run]))
    assert "| accuracy" in generated and "| loss ratio" not in generated, "a table without numbers is left out"


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (1, "1.00"), (0.0123456, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (999.6, "1000"), (364.2, "364"),
     (9999, "9999"), (12345, "1.2e4"), (0.00012, "1.2e-4"), (-0.5, "-0.500")],
)  # fmt: skip
def test_short_numbers_have_three_digits(value: float, text: str) -> None:
    assert short(value) == text


def test_a_report_does_not_depend_on_the_order_of_rows(episodes: list[EpisodeRow]) -> None:
    """Also of several seeds a problem, with values that are rounded differently in another order."""
    rng = np.random.default_rng(0)
    rows = []
    for row in episodes:
        for seed in range(3):
            a, b, c, d, e = map(float, rng.random(5))
            extras = {"loss": a, "loss_full": b + 0.1} if row.mode == "replay" else {}
            changes = {"seed": seed, "correct": c < 0.5, "seconds": d, "kv_bytes_mean": e}
            rows.append(EpisodeRow.model_validate(row.model_dump() | changes | extras))
    first = build_report(rows, [make_run()]).to_json()
    for _ in range(3):
        shuffled = [rows[i] for i in rng.permutation(len(rows))]
        assert build_report(shuffled, [make_run()]).to_json() == first


def test_equally_good_agents_are_compared_with_the_first_by_name() -> None:
    rows = make_cell("zeta", 4) + make_cell("alpha", 4)
    for order in (rows, rows[::-1]):
        cells = {cell.agent: cell for cell in build_report(order, [make_run()]).cells}
        assert cells["alpha"].versus_best is None and cells["zeta"].versus_best is not None


def test_episodes_that_were_cut_off_are_told() -> None:
    """Two of eight were cut off, both wrong; one failed: of the five others four are right."""
    rows = make_cell("mine", 4) + make_cell("other", 8)
    rows = [row.model_copy(update={"stop": "eos"}) if row.mode == "generate" else row for row in rows]
    for i in (5, 6):
        rows[i] = rows[i].model_copy(update={"stop": "length"})
    rows[7] = make_row(7, "mine", correct=None, failed="ValueError: no")
    report = build_report(rows, [make_run()])
    mine, other = report.cell("mine", 64), report.cell("other", 64)
    assert mine is not None and mine.cut_off == pytest.approx(2 / 7) and mine.finished_accuracy
    assert mine.finished_accuracy.value == 4 / 5
    assert other is not None and other.cut_off == 0 and other.finished_accuracy == other.accuracy
    (said,) = [line for line in notes(report) if "cut off" in line]
    assert said.startswith("More than 5% of the episodes were cut off") and "mine 29% at 64. A larger" in said
    assert "other" not in said.replace("the others", "") and "cut off, % · accuracy of the others" in markdown(report)
    assert "29 · 80 [" in printed(report) and said in markdown(report)


def test_a_page_tells_which_rows_were_carried_over() -> None:
    run = make_run(migrated={"from": "0", "date": "2026-11-27T10:00:00+00:00"})
    rows = [row.model_copy(update={"run_id": run.run_id}) for row in make_cell("mine", 4)]
    assert "; rows carried over to newer hashes on 2026-11-27)" in markdown(build_report(rows, [run]))
    assert "carried over" not in markdown(build_report(make_cell("mine", 4), [make_run()]))


def test_nothing_is_said_of_cut_offs_where_there_are_none(report: Report) -> None:
    cell = report.cell("good", 64)
    assert cell is not None and cell.cut_off is None  # rows of these tests do not say how they ended
    assert "ut off" not in printed(report) + markdown(report)


def test_an_agent_has_its_colour_in_every_figure() -> None:
    few, many = looks_of(["rkv", "mine"]), looks_of(["h2o", "yours", "rkv", "mine", "rkv[lam=0.5]"])
    assert few["rkv"] == many["rkv"] and few["rkv"][0] == COLOURS["rkv"] and few["mine"] == many["mine"]
    assert many["rkv[lam=0.5]"][0] in OTHERS and len({colour for colour, _ in many.values()}) == 5
    crowd = looks_of([f"agent-{i}" for i in range(20)])
    assert {colour for colour, _ in crowd.values()} == set(OTHERS)  # more than there are colours
