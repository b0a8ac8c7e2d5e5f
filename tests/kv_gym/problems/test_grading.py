from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from kv_gym.problems import grading
from kv_gym.problems.grading import (
    GradingError,
    coverage,
    extract_answer,
    grade,
    is_correct,
    plain_number,
    same_answer,
    warm_up,
)

ENDLESS = "9^{9^{9^9}}"
SHORT = 0.4  # seconds; for tests that wait for a timeout


@pytest.fixture(autouse=True, scope="module")
def _started_worker() -> None:
    warm_up()


def seconds(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def worker_pid() -> int:
    process = grading._worker._process
    assert process is not None
    return process.pid


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and ") Z " in stat.read_text())  # Z: ended, but nobody has asked how


def run_python(code: str, exit_code: int = 0) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == exit_code, done.stderr
    return done.stdout


# --- Extracting


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ \sqrt{\frac{a}{b}} } }", r"\sqrt{\frac{a}{b}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", ""),
        ("the answer is 42", None),
        (r"\boxed{42", None),
        (r"\boxed{1} and \boxed{\frac{1}{2}", None),
        ("", None),
    ],
)
def test_extract_answer_reads_the_last_closed_box(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_extract_answer_looks_at_the_end_of_the_text_only() -> None:
    assert extract_answer(r"\boxed{1}" + "x" * (grading.MAX_TEXT_CHARS - 9)) == "1"
    assert extract_answer(r"\boxed{1}" + "x" * grading.MAX_TEXT_CHARS) is None


def test_extract_answer_refuses_a_long_box() -> None:
    longest = "1" * grading.MAX_ANSWER_CHARS
    assert extract_answer(rf"\boxed{{{longest}}}") == longest
    assert extract_answer(rf"\boxed{{{longest}1}}") is None


# --- Plain numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", Fraction(7)),
        ("-0.50", Fraction(-1, 2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        (r"50\%", Fraction(1, 2)),
        ("1/0", None),
        ("10 4", None),
        ("1 -1/2", None),
        ("1" * 19, None),
        ("x", None),
        ("1e5", None),
        ("", None),
    ],
)
def test_plain_number_is_exact(text: str, value: Fraction | None) -> None:
    assert plain_number(text) == value


def test_same_answer_compares_plain_numbers_without_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading._worker, "ask", lambda *_: pytest.fail("asked the worker"))
    assert same_answer("042", "42")
    assert same_answer(r"\dfrac12", "0.5")
    assert not same_answer("14", "4")


# --- Equal and unequal


@pytest.mark.parametrize(
    ("box", "gold"),
    [
        ("1/2", "0.5"),
        ("042", "42"),
        ("42.", "042"),
        ("$42$", "42"),
        (r"\$18", "18"),
        ("1,234", "1234"),
        (r"1\,234", "1234"),
        (r"50\%", "50"),
        (r"50\%", "0.5"),
        ("50", r"50\%"),
        (r"5\text{ cm}^2", "5"),
        ("5 apples", "5"),
        ("x = 4", "4"),
        ("m+n = 4", "4"),
        ("x = 8/2 = 4", "4"),
        ("4", "x=4"),
        ("x=1, x=2", "1, 2"),
        (r"\sqrt{12}", r"2\sqrt{3}"),
        ("2*sqrt(3)", r"2\sqrt{3}"),
        ("2pi", r"\pi + \pi"),
        ("0.5x", r"\frac{x}{2}"),
        ("(x-1)(x+1)", "x^2-1"),
        (r"\left(\frac{1}{2}, 1\right)", "(0.5,1)"),
        ("1267650600228229401496703205376", "2^{100}"),
        ("Tuesday", r"\text{Tuesday}"),
        (r"\text{(a)}", "A"),
        (r"\textbf{north-east}", "North-East"),
        (r"2\lambda", r"\lambda+\lambda"),
    ],
)
def test_is_correct_accepts_an_equal_answer(box: str, gold: str) -> None:
    assert is_correct(rf"hence \boxed{{{box}}}", gold)


GOLDS = [
    "0",
    "7",
    "-12",
    "042",
    "12345678901234567890123",
    "0.125",
    "1/3",
    r"\frac{3}{4}",
    r"-\frac{3}{4}",
    r"2\sqrt{3}",
    r"\frac{\sqrt{3}}{2}",
    r"3\pi",
    "(1, 2)",
    "[1, 2)",
    r"(-\infty, 3] \cup [5, \infty)",
    "(1, 2, 3)",
    r"\{1, 2\}",
    "x^2 + 1",
    "x = 4",
    r"\text{Tuesday}",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
]
UNREADABLE_GOLDS = [r"0.\overline{3}", "f'(x)", r"C \& D"]  # for math-verify, or refused in an answer


@pytest.mark.parametrize("gold", [*GOLDS, *UNREADABLE_GOLDS])
def test_is_correct_gives_the_gold_answer_1(gold: str) -> None:
    assert is_correct(rf"\boxed{{{gold}}}", gold)


@pytest.mark.parametrize("gold", [gold for gold in GOLDS if not gold.startswith("\\t")])
def test_worker_finds_the_gold_answer_equal_to_itself(gold: str) -> None:
    """Without the short cuts for identical strings and plain numbers."""
    assert grading._worker.ask({"answer": gold, "gold": gold, "timeout": 5.0}, 5.0)


@pytest.mark.parametrize(
    ("box", "gold"),
    [
        ("14", "4"),
        ("4.5", "4"),
        ("-4", "4"),
        ("14 = 4", "4"),
        ("x = 14 = 4", "4"),
        ("4 or 14", "4"),
        (r"4 \text{ or } 14", "4"),
        (r"4\text{ no, }14\text{ cm}", "4"),
        (r"14 \text{ answer } \frac{4}{1}", "4"),
        ("4, 14", "4"),
        (r"\pm 4", "4"),
        ("x < 4", "4"),
        ("4 million", "4"),
        (r"4 \text{ million}", "4"),
        (r"4 \text{ or more}", "4"),
        ("2t", "2"),
        ("10 4", "14"),
        (r"50\%", "0.005"),
        ("5%", "0.5"),
        ("0.333333333", "1/3"),
        ("1.7320508", r"\sqrt{3}"),
        ("0.0", "10^{-9}"),
        (r"2\pi \cdot 10^{-20}", r"\pi \cdot 10^{-20}"),
        (r"12\sqrt{3}", r"2\sqrt{3}"),
        ("(2, 1)", "(1, 2)"),
        ("[1, 2)", "(1, 2)"),
        ("(1, 2, 3)", "(1, 2)"),
        (r"\text{not Tuesday}", r"\text{Tuesday}"),
        ("}{", "4"),
        ("", "4"),
    ],
)
def test_is_correct_refuses_a_wrong_answer_that_contains_the_gold_one(box: str, gold: str) -> None:
    assert not is_correct(rf"\boxed{{{box}}}", gold)
    assert not same_answer(box, gold)


def test_is_correct_needs_a_box_and_takes_the_last() -> None:
    assert not is_correct("42", "42")
    assert not is_correct(r"\boxed{42}, or rather \boxed{41}", "42")
    assert is_correct(r"\boxed{41}, or rather \boxed{42}", "42")


@pytest.mark.parametrize("gold", ["", "  ", "1" * (grading.MAX_ANSWER_CHARS + 1)])
def test_same_answer_rejects_a_gold_answer_it_cannot_grade(gold: str) -> None:
    with pytest.raises(GradingError, match="1 to 200 can be graded"):
        same_answer("1", gold)


# --- Hostile answers


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        r"\boxed{" * 200_000,
        r"\boxed{" + "4" * 10_000 + "}",
        r"\boxed{" + "{" * 10_000 + "4" + "}" * 10_000 + "}",
        r"\boxed{" + "{" * 10_000,
        "\\" * 1_000_000,
        r"\boxed" + " " * 1_000_000,
    ],
    ids=["long", "boxes", "long-box", "deep", "open", "backslashes", "spaces"],
)
def test_huge_input_scores_0_at_once(text: str) -> None:
    assert seconds(lambda: is_correct(text, "4")) < 0.5
    assert not is_correct(text, "4")
    assert seconds(lambda: same_answer(text, "4")) < 0.5
    assert not same_answer(text, "4")


PYTHON = [
    "__import__('os').system('touch {path}')",
    "open({path!r}, chr(119))",
    "eval(compile({path!r}))",
    "(lambda: open({path!r}, chr(119)))()",
    r"\text{{__import__('os').system('touch {path}')}}",
    r"\operatorname{{system}}(touch {path})",
    "import os",
]


@pytest.mark.parametrize("code", PYTHON)
def test_python_in_an_answer_is_never_run(code: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    answer = code.format(path=str(path))
    assert seconds(lambda: is_correct(rf"\boxed{{{answer}}}", "4")) <= grading.TIMEOUT
    assert not is_correct(rf"\boxed{{{answer}}}", "4")
    # The worker does not rely on the refusal before it.
    assert not grading._worker.ask({"answer": answer, "gold": "4", "timeout": 1.0}, 1.0)
    assert not path.exists()


@pytest.mark.parametrize("answer", ["__import__('os')", "f'", "`ls`", "1;2", "import os", "lambda x", "eval(1)"])
def test_python_in_an_answer_does_not_reach_the_worker(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading._worker, "ask", lambda *_: pytest.fail("asked the worker"))
    assert not same_answer(answer, "4")


def test_worker_takes_eval_out_of_sympy() -> None:
    code = """
import sympy
from kv_gym.problems import grading
grading._never_evaluate()
print(sympy.Number("007"), sympy.Number("0.1"), sympy.sympify("x"))
try:
    sympy.sympify("print('evaluated')")
except Exception as error:
    print(type(error).__name__)
"""
    assert run_python(code).split() == ["7", "1/10", "x", "TypeError"]


@pytest.mark.parametrize("answer", ["9**9**9**9", ENDLESS])
def test_power_tower_costs_at_most_2_seconds(answer: str) -> None:
    warm_up()
    assert seconds(lambda: is_correct(rf"\boxed{{{answer}}}", "4")) <= 2.0
    assert not same_answer(answer, "4", timeout=SHORT)


@pytest.mark.parametrize("answer", ["(" * 90 + "4" + ")" * 90, r"10^{10^{10}}!", r"\sum_{i=1}^{10^9} \sin(i^2)"])
def test_slow_answer_keeps_to_its_timeout(answer: str) -> None:
    warm_up()
    assert seconds(lambda: same_answer(answer, "4", timeout=SHORT)) < SHORT + 1
    assert not same_answer(answer, "4", timeout=SHORT)


# --- The worker


def test_grading_works_again_after_a_timeout() -> None:
    before = worker_pid()
    assert not same_answer(ENDLESS, "4", timeout=SHORT)
    assert not is_running(before)
    assert same_answer(r"\sqrt{16}", "4")
    assert worker_pid() != before


def test_starting_the_worker_does_not_count_against_the_timeout() -> None:
    grading._worker.stop()
    assert same_answer(r"\sqrt{16}", "4", timeout=SHORT)


def test_grading_works_again_after_the_worker_died() -> None:
    process = grading._worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert same_answer(r"\sqrt{16}", "4")


def test_grading_works_in_other_threads_at_the_same_time() -> None:
    golds = [str(n) for n in range(1, 9)]
    results: dict[str, tuple[bool, bool]] = {}

    def grade(gold: str) -> None:
        root = rf"\sqrt{{{int(gold) ** 2}}}"
        results[gold] = (same_answer(root, gold), same_answer(root, gold + "0"))

    threads = [threading.Thread(target=grade, args=(gold,)) for gold in golds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(golds, (True, False))


def test_timeout_works_outside_the_main_thread() -> None:
    warm_up()
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(same_answer(ENDLESS, "4", timeout=SHORT)))
    thread.start()
    assert seconds(thread.join) < SHORT + 1
    assert results == [False]


def test_interrupted_request_does_not_answer_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def get(self, timeout: float) -> bytes:
            raise KeyboardInterrupt

    warm_up()
    with monkeypatch.context() as patch:
        patch.setattr(grading._worker, "_replies", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            same_answer(r"\sqrt{16}", "4")
    assert not same_answer(r"\sqrt{16}", "5")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_gets_its_own_worker() -> None:
    warm_up()
    before = worker_pid()
    lock = grading._worker._lock
    lock.acquire()  # as if another thread were grading
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # seconds; a child that waits for the lock waits for ever
        ok = same_answer(r"\sqrt{16}", "4") and worker_pid() != before
        grading._worker.stop()
        os._exit(0 if ok else 1)
    lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker_pid() == before
    assert same_answer(r"\sqrt{25}", "5")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_worker_is_light_and_bounded_in_memory() -> None:
    warm_up()
    maps = Path(f"/proc/{worker_pid()}/maps").read_text()
    assert "/python" in maps
    assert "torch" not in maps
    assert "numpy" not in maps
    limits = Path(f"/proc/{worker_pid()}/limits").read_text()
    assert f"Max address space         {grading.MEMORY_LIMIT}" in limits


def test_importing_grading_starts_nothing_and_loads_no_sympy() -> None:
    code = """
import sys
from kv_gym.problems import grading
print(grading._worker._process, "sympy" in sys.modules, "torch" in sys.modules)
"""
    assert run_python(code).split() == ["None", "False", "False"]


def test_worker_ends_with_the_interpreter() -> None:
    code = """
from kv_gym.problems import grading
grading.warm_up()
print(grading._worker._process.pid)
"""
    assert not is_running(int(run_python(code)))


@pytest.mark.parametrize(
    "meanwhile", ["None", f"grading.same_answer({ENDLESS!r}, '4', timeout=0.8)"], ids=["idle", "computing"]
)
def test_worker_ends_when_the_parent_is_killed(meanwhile: str) -> None:
    code = f"""
import os, signal, threading, time
from kv_gym.problems import grading
grading.warm_up()
print(grading._worker._process.pid, flush=True)
threading.Thread(target=lambda: {meanwhile}).start()
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pid = int(run_python(code, exit_code=-signal.SIGKILL))
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_worker_that_cannot_start_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    grading._worker.stop()
    monkeypatch.setattr(grading, "_BOOT", "import no_such_module")
    with pytest.raises(GradingError, match="import math_verify"):
        same_answer(r"\sqrt{16}", "4")
    monkeypatch.undo()
    assert same_answer(r"\sqrt{16}", "4")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (r"\boxed{a=1,b=2,c=3,d=4}", 1.0),
        (r"\boxed{ d=4, c=3,b=2 ,a=1}", 1.0),  # the order does not matter
        (r"\boxed{a=1,a=1,b=2}", 0.5),  # twice the same is once
        (r"\boxed{a=1,b=9,x=2,y=3,c=3,d=4}", 0.25),  # only as many as asked for count: listing all does not help
        (r"a=1,b=2,c=3,d=4", 0.0),
        (r"\boxed{}", 0.0),
    ],
)
def test_coverage_counts_items_of_the_gold_list(text, share):
    assert coverage(text, "a=1,b=2,c=3,d=4") == share
    assert grade(text, "a=1,b=2,c=3,d=4", "coverage") == share


def test_grade_of_an_answer_is_all_or_nothing():
    assert grade(r"\boxed{1/2}", "0.5", "answer") == 1.0 and grade(r"\boxed{1/2}", "0.6", "answer") == 0.0
