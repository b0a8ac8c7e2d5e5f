"""Paired differences, their p-values by enumeration, and Holm's correction by hand."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from test_report import make_cell, make_row, make_run

from kv_gym.bench.report import build_report
from kv_gym.bench.rows import packed
from kv_gym.bench.tables import Entry, Line, Table, csv_text, in_latex, p_text, versus_tables
from kv_gym.bench.versus import holm, p_value, versus
from kv_gym.commands import main as cli
from kv_gym.errors import UnknownNameError


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.9 -> x4, x3, x2, x1, never below the one before
    assert holm([0.9, 0.02, 0.01, 0.03]) == pytest.approx([0.9, 0.06, 0.04, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_p_is_the_share_of_sign_flips_that_differ_as_much() -> None:
    ours, theirs = [1.0, 3.0, 2.0, 5.0, 1.0], [0.0, 1.0, 2.5, 1.0, 0.0]
    gaps = np.array(ours) - np.array(theirs)
    flipped = [np.mean(gaps * signs) for signs in itertools.product((1, -1), repeat=5)]
    tail = min(np.mean(np.array(flipped) >= gaps.mean() - 1e-12), 1.0)  # it is symmetric: twice the upper tail
    assert p_value(ours, theirs, list("abcde")) == pytest.approx(2 * tail)


def test_seeds_of_a_problem_are_one_observation_and_nothing_is_no_difference() -> None:
    once = p_value([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], ["a", "b", "c"])
    twice = p_value([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [0.0] * 6, ["a", "a", "b", "b", "c", "c"])
    assert once == twice == pytest.approx(2 / 8)
    assert p_value([1.0, 1.0], [1.0, 1.0], ["a", "b"]) == p_value([1.0, 1.0], [1.0, 0.0], ["a", "b"]) == 1.0


def test_differences_are_of_common_problems_and_failures_are_wrong() -> None:
    """`a` is right on all eight, `b` on the first half and failed on one of those, `c` never played problem 7."""
    rows = make_cell("a", 8) + make_cell("b", 4) + make_cell("c", 0)
    rows = [row for row in rows if (row.agent, row.problem) != ("c", "p7")]
    rows = [
        row.model_copy(update={"correct": None, "failed": "no"})
        if (row.agent, row.mode, row.problem) == ("b", "generate", "p0") else row
        for row in rows
    ]  # fmt: skip
    accuracy = next(table for table in versus(rows, "a") if table.measure == "accuracy")
    b = accuracy.of("b", 64)
    assert b is not None and b.interval.value == pytest.approx(-5 / 8) and b.n_problems == 8
    c = accuracy.of("c", 64)
    assert c is not None and c.interval.value == -1 and c.n_problems == 7 and c.p == pytest.approx(2 / 2**7)
    assert c.p_holm == pytest.approx(2 * c.p) and accuracy.of("a", 64) is None
    with pytest.raises(UnknownNameError, match="rvk"):
        versus(rows, "rvk")


def test_loss_is_compared_in_replay() -> None:
    rows = [make_row(i, agent, mode="replay", loss=loss) for i in range(6) for agent, loss in (("a", 1.0), ("b", 1.5))]
    (table,) = versus(rows, "a")
    (found,) = table.differences
    assert (table.measure, found.agent, found.interval.value) == ("loss", "b", 0.5)
    assert found.p == pytest.approx(2 / 2**6)


def test_a_table_as_latex() -> None:
    lines = (
        Line("r_kv", (Entry("38 [32, 44]", bold=True), Entry("< 5%", bold=False)), ranked=True, hindsight=False),
        Line("golden", (Entry("a \\ b"), Entry("", bold=True)), ranked=False, hindsight=True),
    )
    assert in_latex(Table("accuracy", ("64", "1.0e-5"), lines)).splitlines()[1:] == [
        "% accuracy", r"\begin{tabular}{lrr}", r"\toprule", r"agent & 64 & 1.0e-5 \\", r"\midrule",
        r"r\_kv & \textbf{38 [32, 44]} & $<$ 5\% \\", r"\midrule",
        r"\textit{golden} & a \textbackslash{} b &  \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


def test_csv_has_every_number_of_every_cell() -> None:
    report = build_report(make_cell("mine", 4) + make_cell("other", 2), [make_run()])
    lines = list(csv.DictReader(csv_text(report).splitlines()))
    assert [line["agent"] for line in lines] == ["mine", "other"]
    mine, cell = lines[0], report.cell("mine", 64)
    assert cell is not None and cell.accuracy is not None and cell.families["even"] is not None
    assert float(mine["accuracy"]) == 0.5 and float(mine["accuracy_ci_low"]) == cell.accuracy.low
    ratio, low = cell.measures["loss_ratio"], cell.measures["loss_ratio_low"]
    assert ratio is not None and low is not None and mine["accuracy_mode"] == "generate"
    assert float(mine["loss_ratio_ci_low"]) == ratio.low and float(mine["loss_ratio_low"]) == low.value
    assert float(mine["accuracy_even"]) == cell.families["even"].value and mine["loss_ratio"] == "4.0"


def test_what_is_significant_is_bold() -> None:
    rows = make_cell("a", 8) + make_cell("b", 7) + make_cell("c", 0)
    accuracy, *_ = versus_tables(build_report(rows, [make_run()]), versus(rows, "a"))
    texts = {line.agent: line.entries[0] for line in accuracy.lines}
    assert texts["a"] == Entry() and not texts["b"].bold
    assert texts["c"] == Entry("-100 [-100, -100] p 0.02", True)  # 2 * 2 / 2**8
    assert [p_text(p) for p in (0.0001, 0.0046, 0.046, 1)] == ["< 0.001", "0.005", "0.05", "1.00"]


@pytest.mark.parametrize(
    ("options", "found", "complaint"),
    [
        (["--against", "b"], "Difference to b, points of accuracy", ""),
        (["--latex", "--against", "b"], "% Difference to b, points of accuracy", ""),
        (["--markdown", "--against", "b"], "| Difference to b, points of accuracy", ""),
        (["--csv"], "agent,agent_source,budget", ""),
        (["--csv", "--against", "b"], "", "no --tokens, --csv or --json"),
        (["--csv", "--latex"], "", "Use one alone"),
        (["--lost", "b"], "", "--lost AGENT wants --against AGENT"),
        (["--against", "nobody"], "", "'nobody'"),
    ],
)
def test_reports_for_papers(
    options: list[str], found: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(packed([make_run(), *make_cell("a", 8), *make_cell("b", 4)], path))
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path), *options])
    out, err = capsys.readouterr()
    assert ended.value.code == (2 if complaint else 0), err
    assert found in out and complaint in err


def test_two_agents_of_one_name_are_two() -> None:
    rows = make_cell("a", 8) + make_cell("a", 2, agent_source="m:a(lam=0.5)") + make_cell("b", 4)
    one, other = (label for label in build_report(rows, [make_run()]).agents if label != "b")
    assert one != other
    accuracy = next(table for table in versus(rows, "b") if table.measure == "accuracy")
    values = {label: accuracy.of(label, 64).interval.value for label in (one, other)}  # type: ignore[union-attr]
    assert sorted(values.values()) == [-0.25, 0.5]
    with pytest.raises(UnknownNameError, match="agent 'a' in these rows"):
        versus(rows, "a")


def test_a_picture_of_no_kind_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "nowhere", "--plot", "x.foo"])
    assert ended.value.code == 2 and "ends in .png, .svg or .pdf" in capsys.readouterr().err
