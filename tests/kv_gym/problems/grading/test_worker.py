"""The worker: what hostile answers cost, how time is measured, and that it lives and dies with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kv_gym.errors import GradingError, UndecidedError
from kv_gym.problems.grading import is_correct, same_answer, served, warm_up, worker
from kv_gym.problems.grading.worker import WORKER

ENDLESS = "9^{9^{9^9}}"
SHORT = 0.4  # seconds; for tests that wait for a timeout


@pytest.fixture(autouse=True, scope="module")
def _started_worker() -> None:
    warm_up()


def worker_pid() -> int:
    process = WORKER._process
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


# --- Hostile answers


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
    assert not is_correct(rf"\boxed{{{answer}}}", "4")
    # The worker does not rely on the refusal before it.
    assert not WORKER.ask(answer, "4")
    assert not path.exists()


@pytest.mark.parametrize("answer", ["__import__('os')", "f'", "`ls`", "import os", "lambda x", "eval(1)"])
def test_python_in_an_answer_does_not_reach_the_worker(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORKER, "ask", lambda *_: pytest.fail("asked the worker"))
    assert not same_answer(answer, "4")


def test_worker_takes_eval_out_of_sympy() -> None:
    code = """
import sympy
from kv_gym.problems.grading import mathematics
mathematics.never_evaluate()
print(sympy.Number("007"), sympy.Number("0.1"), sympy.sympify("x"))
try:
    sympy.sympify("print('evaluated')")
except Exception as error:
    print(type(error).__name__)
"""
    assert run_python(code).split() == ["7", "1/10", "x", "TypeError"]


@pytest.mark.parametrize("answer", [ENDLESS, r"10^{10^{10}}!", r"\sum_{i=1}^{10^9} \sin(i^2)"])
def test_a_comparison_that_takes_long_is_no_verdict(answer: str) -> None:
    with pytest.raises(UndecidedError, match=r"took over 0.4 s of CPU time .* nobody knows whether it is right"):
        same_answer(answer, "4", cpu_seconds=SHORT)
    assert same_answer(answer, f" {answer}", cpu_seconds=SHORT)  # equal texts are equal, whatever they stand for


@pytest.mark.parametrize("answer", ["(" * 90 + "4" + ")" * 90, "[" * 100, "9**9**9**9", "{" * 90, "1/" * 90 + "0"])
def test_odd_text_is_wrong_or_undecided(answer: str) -> None:
    with contextlib.suppress(UndecidedError):
        assert not same_answer(answer, "5", cpu_seconds=SHORT)


# --- Time


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def ended_seconds() -> float:
    """CPU time of all our processes that ended, seconds."""
    usage = os.times()
    return usage.children_user + usage.children_system


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
def test_the_limit_is_on_cpu_time() -> None:
    warm_up()
    before = cpu_seconds(worker_pid()) + ended_seconds()
    with pytest.raises(UndecidedError):
        same_answer(ENDLESS, "4", cpu_seconds=SHORT)
    assert SHORT / 2 < ended_seconds() - before < 2 * SHORT  # clocks tick every 10 ms; wall time may be 10 * SHORT


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_busy_machine_does_not_turn_right_into_wrong() -> None:
    warm_up()
    pid = worker_pid()

    def stop_for_a_while() -> None:
        time.sleep(0.2)  # the comparison takes about 0.4 s of CPU time
        os.kill(pid, signal.SIGSTOP)
        time.sleep(worker.CPU_LIMIT + 0.2)
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_for_a_while)
    thread.start()
    assert same_answer(r"\sum_{k=1}^{1000} k!", r"1+\sum_{k=2}^{1000} k!")
    thread.join()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_machine_without_any_cpu_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up()
    before = worker_pid()
    monkeypatch.setattr(worker, "WALL_FACTOR", 1)
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(UndecidedError):
        same_answer(r"\sqrt{16}", "4", cpu_seconds=SHORT)
    assert not is_running(before)


# --- The worker


def test_grading_works_again_after_a_timeout() -> None:
    before = worker_pid()
    with pytest.raises(UndecidedError):
        same_answer(ENDLESS, "4", cpu_seconds=SHORT)
    assert not is_running(before)
    assert same_answer(r"\sqrt{16}", "4")
    assert worker_pid() != before


def test_starting_the_worker_does_not_count_against_the_timeout() -> None:
    WORKER.stop()
    assert same_answer(r"\sqrt{16}", "4", cpu_seconds=SHORT)


def test_grading_works_again_after_the_worker_died() -> None:
    process = WORKER._process
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


def test_the_limit_works_outside_the_main_thread() -> None:
    warm_up()
    results: list[str] = []

    def ask() -> None:
        try:
            same_answer(ENDLESS, "4", cpu_seconds=SHORT)
        except UndecidedError as error:
            results.append(type(error).__name__)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert results == ["UndecidedError"]


def test_interrupted_request_does_not_answer_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def get(self, timeout: float) -> bytes:
            raise KeyboardInterrupt

    warm_up()
    with monkeypatch.context() as patch:
        patch.setattr(WORKER, "_replies", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            same_answer(r"\sqrt{16}", "4")
    assert not same_answer(r"\sqrt{16}", "5")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_gets_its_own_worker() -> None:
    warm_up()
    before = worker_pid()
    lock = WORKER._lock
    lock.acquire()  # as if another thread were grading
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # seconds; a child that waits for the lock waits for ever
        ok = same_answer(r"\sqrt{16}", "4") and worker_pid() != before
        WORKER.stop()
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
    assert f"Max address space         {served.MEMORY_LIMIT}" in limits


def test_importing_grading_starts_nothing_and_loads_no_sympy() -> None:
    code = """
import sys
from kv_gym.problems.grading.worker import WORKER
print(WORKER._process, "sympy" in sys.modules, "torch" in sys.modules)
"""
    assert run_python(code).split() == ["None", "False", "False"]


def test_worker_ends_with_the_interpreter() -> None:
    code = """
from kv_gym.problems import grading
from kv_gym.problems.grading.worker import WORKER
grading.warm_up()
print(WORKER._process.pid)
"""
    assert not is_running(int(run_python(code)))


@pytest.mark.parametrize(
    "meanwhile", ["None", f"grading.same_answer({ENDLESS!r}, '4', cpu_seconds=0.8)"], ids=["idle", "computing"]
)
def test_worker_ends_when_the_parent_is_killed(meanwhile: str) -> None:
    code = f"""
import os, signal, threading, time
from kv_gym.problems import grading
from kv_gym.problems.grading.worker import WORKER
grading.warm_up()
print(WORKER._process.pid, flush=True)
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
    WORKER.stop()
    monkeypatch.setattr(worker, "_BOOT", "import no_such_module")
    with pytest.raises(GradingError, match="import latex2sympy2_extended"):
        same_answer(r"\sqrt{16}", "4")
    monkeypatch.undo()
    assert same_answer(r"\sqrt{16}", "4")


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("n!", "n(n-1)!", True), ("n(n-1)", r"\frac{n!}{(n-2)!}", True), (r"\frac{n!}{(n-2)!}", "n(n-1)", True),
        (r"\frac{(n+3000)!}{n!}", "n", False), (r"\binom{n}{2024}", r"\binom{n}{2023}", False),
        (r"\binom{n}{2024}", r"\binom{n}{2024}", True),
    ],
)  # fmt: skip
def test_factorials_take_no_second_in_a_worker_that_never_saw_one(answer: str, gold: str, same: bool) -> None:
    """To 400 digits, mpmath's first value of a factorial takes 1.1 s; rules for factorials write (n+3000)!/n! out."""
    fresh = worker.Worker()
    try:
        assert fresh.ask(answer, gold, cpu_seconds=0.8) is same
    finally:
        fresh.stop()
