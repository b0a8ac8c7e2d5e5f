r"""Extract the answer from a generation and compare it to the gold answer by mathematics, not by string.

    text -> extract_answer -> plain numbers? compare as fractions : ask the worker -> True or False

A generation is data that nobody vouches for. It is bounded in length, never evaluated as Python, and whatever needs
sympy runs in a child process of bounded memory, which is killed when its time is up. math-verify's own timeouts use
`signal.alarm`, which fails outside the main thread. Where Python has no `resource` module (Windows), memory is not
bounded.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal

from kv_gym.errors import KVGymError

MAX_TEXT_CHARS = 4_000  # only the end of a generation is searched for the box
MAX_ANSWER_CHARS = 200  # longer boxes are no answers
TIMEOUT = 2.0  # seconds for one comparison; starting the worker is not part of it
KILL_TIME = 0.1  # seconds of a timeout kept back to kill and replace the worker; takes 5 to 15 ms
START_TIMEOUT = 60.0  # seconds; about 1 on a free core
MEMORY_LIMIT = 1024 * 2**20  # bytes of address space; the idle worker takes about a tenth
NUMERIC_DIGITS = 50  # at math-verify's 15, pi*10^-20 and 2*pi*10^-20 count as equal

Graded = Literal["answer", "coverage"]
"""How a generation is scored, see `grade`."""

logger = logging.getLogger(__name__)


class GradingError(KVGymError, RuntimeError):
    """The gold answer cannot be graded against, or the worker cannot start."""


# --- Extracting --------------------------------------------------------------------------------------------------


def extract_answer(text: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` of `text` holds.

    Returns:
        The content without outer whitespace; None if there is no box in the last `MAX_TEXT_CHARS` characters, if the
        last box is not closed, or if it holds more than `MAX_ANSWER_CHARS` characters.
    """
    text = text[-MAX_TEXT_CHARS:]
    boxes = list(re.finditer(r"\\boxed\s*\{", text))
    if not boxes:
        return None
    start = boxes[-1].end()
    end = closing_brace(text, start)
    if end is None or end - start > MAX_ANSWER_CHARS:
        return None
    return text[start:end].strip()


def closing_brace(text: str, start: int) -> int | None:
    r"""Return the index of the brace closing the one before `start`; ``\{`` and ``\}`` are characters, not groups."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return start + brace.start()
    return None


def coverage(text: str, gold: str) -> float:
    """Share of the items of a gold list, separated by commas, that the last box of `text` holds, 0 to 1.

    The order does not matter. Only as many items of the box count as the gold list has, so that listing everything
    does not help.
    """
    wanted = {item.strip() for item in gold.split(",")}
    found = [item.strip() for item in (extract_answer(text) or "").split(",")]
    return len(wanted & set(list(dict.fromkeys(found))[: len(wanted)])) / len(wanted)


def grade(text: str, gold: str, graded: Graded) -> float:
    """Score a generation, 0 to 1: by `coverage`, or 1 for the right boxed `answer`."""
    return coverage(text, gold) if graded == "coverage" else float(is_correct(text, gold))


# --- Comparing ---------------------------------------------------------------------------------------------------


def is_correct(text: str, gold: str) -> bool:
    """Say whether the boxed answer of a generation equals the gold answer. No box is a wrong answer."""
    answer = extract_answer(text)
    return answer is not None and same_answer(answer, gold)


def same_answer(answer: str, gold: str, timeout: float = TIMEOUT) -> bool:
    r"""Say whether two answers are mathematically equal.

    Exact: 0.333 is not 1/3. Units are ignored (``5\text{ cm}`` is ``5``). A percentage is its value and, where only
    one side has the sign, also its number: ``50\%`` is 0.5 and 50.

    Args:
        answer: What the LLM answered.
        gold: The gold answer; trusted.
        timeout: Seconds until the comparison is given up and counts as wrong. Waiting for the worker to start
            (`warm_up`) or for other threads comes on top.

    Raises:
        GradingError: The gold answer is empty or too long, or the worker cannot start.
    """
    if not gold.strip() or len(gold) > MAX_ANSWER_CHARS:
        raise GradingError(f"gold answer of {len(gold)} characters: 1 to {MAX_ANSWER_CHARS} can be graded.")
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    answer, gold = _tidy(answer), _tidy(gold)
    right = plain_number(gold)
    if right is not None:
        answer = _WORD_UNIT.sub("", answer)
    left = plain_number(answer)
    if answer == gold or _same_words(answer, gold):
        return True
    if left is not None and right is not None:
        return left == right or plain_number(answer.rstrip("\\%")) == plain_number(gold.rstrip("\\%"))
    if not answer or _REFUSED.search(answer):
        return False
    return _worker.ask({"answer": answer, "gold": gold, "timeout": timeout}, timeout)


def warm_up() -> None:
    """Start the grading worker now (about a second), so that the first comparison need not wait for it.

    Raises:
        GradingError: The worker cannot start.
    """
    _worker.warm_up()


_UNSIGNED = r"(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})"
_PLAIN = re.compile(rf"([+-]?)\s*(?:([0-9]{{1,18}})\s+)?([+-]?{_UNSIGNED})(?:\s*/\s*([+-]?{_UNSIGNED}))?\s*(\\?%)?")
_PLAIN_FRAC = re.compile(rf"\\frac\s*\{{\s*([+-]?{_UNSIGNED})\s*\}}\s*\{{\s*([+-]?{_UNSIGNED})\s*\}}")


def plain_number(text: str) -> Fraction | None:
    r"""Read ``042``, ``-0.5``, ``1/2``, ``\frac{1}{2}``, ``1 1/2`` or ``50\%``; None for anything else."""
    match = _PLAIN.fullmatch(_PLAIN_FRAC.sub(r" \1/\2", text).strip())
    if match is None:
        return None
    sign, whole, top, bottom, percent = match.groups()
    if whole and (bottom is None or top[0] in "+-"):  # "10 4" is not a number, "1 -1/2" not a mixed one
        return None
    if bottom is not None and Fraction(bottom) == 0:
        return None
    value = Fraction(whole or 0) + Fraction(top) / Fraction(bottom or 1)
    return value * (-1 if sign == "-" else 1) / (100 if percent else 1)


# Spellings that mean the same, in this order.
_SPELLINGS = [
    (re.compile("\N{MINUS SIGN}"), "-"),
    (re.compile("\N{GREEK SMALL LETTER PI}"), r"\\pi "),
    (re.compile("\N{INFINITY}"), r"\\infty "),
    (re.compile(r"^(\\?\$)+|(?<!\\)\$+$|^\\[(\[]|\\[)\]]$"), ""),  # math delimiters, currency
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~"), " "),  # spaces
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*([0-9])\s*([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<![A-Za-z\\])(pi|ln|log|sin|cos|tan)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"\s+"), " "),
    (re.compile(r"^ | ?\.? ?$"), ""),
]
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}([, ][0-9]{3})+(\.[0-9]+)?")
# Words behind a number that change its value are no units.
_NO_UNIT = (
    r"(?!.*\b(?:or|and|not|to|mod|plus|minus|times|over|divided|squared|cubed|dozen|hundred|thousand"
    r"|[mb]illion|percent)\b)"
)
_TEXT_UNIT = re.compile(rf"(?<=[0-9}})]) ?\\(?:text|mbox|mathrm) ?\{{{_NO_UNIT}[^{{}}0-9]*\}}(?:\^\{{?[23]\}}?)?$")
_WORD_UNIT = re.compile(rf"(?<=[0-9}}]) {_NO_UNIT}[A-Za-z]{{2}}[A-Za-z ./]*(?:\^\{{?[23]\}}?)?$")
_WORDS = re.compile(r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|mathbf) ?\{([^{}]*)\}")
# Python, not mathematics; and "10 4", which math-verify reads as the mixed number 10 + 4.
_REFUSED = re.compile(
    r"__|[\"'`;]|(?<![\\A-Za-z])(?:import|lambda|eval|exec|getattr|globals|builtins)\b|[0-9] [0-9]+(?![0-9]| ?/)"
)


def _tidy(text: str) -> str:
    """Bring spellings of the same answer closer together: delimiters, spaces, thousands, units."""
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _TEXT_UNIT.sub("", text)
    return re.sub("[, ]", "", text) if _THOUSANDS.fullmatch(text) else text


def _same_words(answer: str, gold: str) -> bool:
    r"""Compare ``\text{Tuesday}`` or ``\text{(A)}`` with the same words, with or without the wrapping."""
    if not (_WORDS.fullmatch(answer) or _WORDS.fullmatch(gold)):
        return False
    first, second = (_WORDS.sub(r"\1", text).strip(" ()").casefold() for text in (answer, gold))
    return first == second != ""


# --- The worker, seen from here ----------------------------------------------------------------------------------

# The child gets a bare package: kv_gym/__init__.py may import more than a grader needs. Its paths are ours, because
# a test runner or a notebook may have found kv_gym by other means than PYTHONPATH.
_BOOT = """
import sys, types
for name in ("kv_gym", "kv_gym.problems"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + name.removeprefix("kv_gym").replace(".", "/")]
sys.path[:] = sys.argv[2:]
from kv_gym.problems import grading
grading._serve()
"""


class _Worker:
    """A child process that compares answers one at a time; killed and replaced when it takes too long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ready = False

    def warm_up(self) -> None:
        with self._lock:
            self._ensure_ready()

    def ask(self, request: dict[str, Any], timeout: float) -> bool:
        with self._lock:
            self._ensure_ready()
            reply = self._exchange(json.dumps(request).encode() + b"\n", max(timeout - KILL_TIME, KILL_TIME))
            if reply in (b"true\n", b"false\n"):
                return reply == b"true\n"
            logger.warning("Scored 0, as it took over %.1f s or ended the worker: %r", timeout, request["answer"])
            self.stop()
            self._start()  # does not wait: it imports while the caller goes on
            return False

    def stop(self) -> None:
        """Kill the process. Takes no lock, so that it can run at exit whatever other threads do."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close(process)

    def forget(self) -> None:
        """Leave the process to the parent, after a fork: two users of its pipes would get each other's replies."""
        if self._process is not None:
            self._process.returncode = 0  # not our child; keeps Popen from waiting for it
            _close(self._process)
        self._process = None
        self._lock = threading.Lock()  # another thread may have held it at the fork

    def _start(self) -> None:
        self._ready = False
        self._replies = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(Path(__file__).parents[1]), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's orderings, hence its timings, depend on it
            start_new_session=True,  # Ctrl-C is for us; on Windows, the flag says so
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        # A thread, as a pipe has no timeout on every system.
        assert self._process.stdout is not None
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._replies), daemon=True).start()

    def _ensure_ready(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._start()
        if not self._ready and self._exchange(b"", START_TIMEOUT) != b"ready\n":
            self.stop()
            raise GradingError(
                f"the grading worker did not start within {START_TIMEOUT:.0f} s.\n"
                f"  See what is missing: {sys.executable} -c 'import math_verify'"
            )
        self._ready = True

    def _exchange(self, line: bytes, timeout: float) -> bytes:
        """Send a line and read one; b"" if the worker is late or gone."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            return self._replies.get(timeout=timeout)
        except (OSError, queue.Empty):
            return b""
        except BaseException:
            self.stop()  # after Ctrl-C, a late reply must not answer the next request
            raise


def _read_lines(stream: IO[bytes], replies: queue.SimpleQueue[bytes]) -> None:
    """Hand over the lines of a process as they come, and b"" at the end; `stream` is unbuffered.

    By hand: a buffered reader holds a lock while it reads, and a process forked then could never close it.
    """
    line = b""
    while chunk := stream.read(64):
        line += chunk
        if line.endswith(b"\n"):
            replies.put(line)
            line = b""
    stream.close()
    replies.put(b"")


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close our end of what is written to a process; the other pipe ends with it, and its reader closes that."""
    assert process.stdin is not None
    process.stdin.close()


_worker = _Worker()
atexit.register(_worker.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_worker.forget)


# --- The worker, seen from inside --------------------------------------------------------------------------------


def _serve() -> None:
    """Answer requests, one JSON object a line on standard input, until the parent closes it."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no reply
    _limit_resources()
    _equal(r"\frac{x^2-1}{\sqrt{3}}", r"\frac{(x-1)(x+1)}{\sqrt{3}}")  # sympy imports and caches on first use
    _equal("(1, 2)", "(1, 3)")
    _never_evaluate()
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Ends the process by itself, should the parent be killed while it computes; even in the middle of C code.
        faulthandler.dump_traceback_later(request["timeout"] + 1, exit=True)
        equal = _equal(request["answer"], request["gold"])
        faulthandler.cancel_dump_traceback_later()
        replies.write(json.dumps(equal).encode() + b"\n")


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {resource.RLIMIT_AS: MEMORY_LIMIT, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    for kind, limit in limits.items():
        try:
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):  # not every system has every limit; time is bounded all the same
            continue


def _never_evaluate() -> None:
    """Take Python's `eval` out of sympy: `sympify` runs it on any string, even on the digits of a parsed number."""
    from sympy.parsing import sympy_parser

    sympy_parser.parse_expr = _literal


def _literal(text: str, *_: object, **__: object) -> Any:
    """Read a name or a number as sympy would, but decimals exactly."""
    import sympy

    return sympy.Symbol(text) if text.isidentifier() else sympy.Rational(text)


def _equal(answer: str, gold: str) -> bool:
    from math_verify import verify

    try:
        right = _parse(gold)
        sides = [answer] if "=" in gold else _sides(answer)
        # No timeout: the parent keeps the time.
        return all(
            verify(right, _parse(side), numeric_precision=NUMERIC_DIGITS, timeout_seconds=None) for side in sides
        )
    except Exception:  # what cannot be parsed or compared is not the answer
        return False


def _sides(answer: str) -> list[str]:
    """Split ``x = 8/2 = 4`` into what is claimed to be equal: ``8/2`` and ``4``. ``14 = 4`` must not count as 4."""
    no_digits = r"(?:[^0-9=<>!:_]|_\{?[0-9A-Za-z]+\}?)*"  # a name: m+n, x_1, P(A)
    answer = re.sub(rf"^{no_digits}=", "", answer)
    answer = re.sub(r", ?[A-Za-z](?:_\{?[0-9A-Za-z]\}?)? ?=", ",", answer)
    return re.split(r"(?<![<>!:])=", answer)


def _parse(text: str) -> Any:
    r"""Parse one LaTeX expression, all of it.

    The two steps inside `math_verify.parse`, without its search for something to parse: there,
    ``14 \text{ answer } \frac{4}{1}`` is 4.
    """
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    # No units: they include c, h, m, s and t, so that 2t would be 2.
    config = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    text = normalize_latex(text, config)
    return latex2sympy(text, is_real=not should_treat_as_complex(text), normalization_config=None)
