r"""Numbers as people and LLMs write them: read the plain ones exactly, spell the others as LaTeX."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_UNSIGNED = r"(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})"
_PLAIN = re.compile(rf"([+-]?)\s*(?:([0-9]{{1,18}})\s+)?([+-]?{_UNSIGNED})(?:\s*/\s*([+-]?{_UNSIGNED}))?\s*(\\?%)?")
_PLAIN_FRAC = re.compile(rf"\\[dtc]?frac\s*\{{\s*([+-]?{_UNSIGNED})\s*\}}\s*\{{\s*([+-]?{_UNSIGNED})\s*\}}")


def plain_number(text: str) -> Fraction | None:
    r"""Read ``042``, ``-0.5``, ``1/2``, ``\frac{1}{2}``, ``1 1/2`` or ``50\%``; None for anything else."""
    if len(text) <= 18 and text.isascii() and text.isdigit():  # most answers; the rest is ten times as slow
        return Fraction(int(text))
    match = _PLAIN.fullmatch(_PLAIN_FRAC.sub(r" \1/\2 ", text).strip())
    if match is None:
        return None
    sign, whole, top, bottom, percent = match.groups()
    if whole and (bottom is None or top[0] in "+-"):  # "10 4" is not a number, "1 -1/2" not a mixed one
        return None
    if bottom is not None and Fraction(bottom) == 0:
        return None
    value = Fraction(whole or 0) + Fraction(top) / Fraction(bottom or 1)
    return value * (-1 if sign == "-" else 1) / (100 if percent else 1)


# The digits that repeat: 0.\overline{3}, 0.1\bar6, 0.\dot{1}4285\dot{7}, 0.(3); but 0.1(6) may be a product.
_REPEATING = re.compile(
    r"(?<![0-9.])([0-9]{0,18})\.([0-9]{0,18})(?:\\(?:overline|bar) ?(?:\{ ?([0-9]{1,18}) ?\}|([0-9]))"
    r"|\\dot ?\{?([0-9])\}?(?:([0-9]{0,16})\\dot ?\{?([0-9])\}?)?|(?<=\.)\(([0-9]{1,18})\))(?![0-9])"
)


def spell_repeating(text: str) -> str:
    r"""Write repeating decimals as fractions: ``0.1\overline{6}`` as ``\frac{15}{90}``."""

    def fraction(match: re.Match[str]) -> str:
        whole, fixed, *repeated = match.groups(default="")
        period = "".join(repeated)
        nines, zeros = 10 ** len(period) - 1, 10 ** len(fixed)
        top = (int(whole or 0) * zeros + int(fixed or 0)) * nines + int(period)
        return rf"\frac{{{top}}}{{{nines * zeros}}}"

    return _REPEATING.sub(fraction, text)


_SCIENTIFIC = re.compile(r"(?<![A-Za-z0-9.}\\])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([+-]?[0-9]{1,4})(?![0-9A-Za-z.^_])")
_LARGE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LARGE_WORD = re.compile(
    r"(?<=[0-9}]) ?(?:\\(?:text|mbox|mathrm) ?\{ ?)?"
    rf"((?i:{'|'.join(_LARGE)}))s?(?![A-Za-z])(?: ?\}}| ([A-Za-z ]*\}}))?"
)


def spell_powers_of_ten(text: str) -> str:
    r"""Write ``1e3`` as ``1\cdot 10^{3}`` and ``4 million`` as ``4\cdot 10^{6}``."""
    text = _SCIENTIFIC.sub(lambda match: rf"{match[1]}\cdot 10^{{{int(match[2])}}}", text)

    def power(match: re.Match[str]) -> str:
        rest = rf"\text{{ {match[2]}" if match[2] else ""  # a unit in the same group
        return rf"\cdot 10^{{{_LARGE[match[1].casefold()]}}}{rest}"

    return _LARGE_WORD.sub(power, text)


_GROUPED = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
# A leading zero is no group: 0,125 is a decimal comma or two numbers.
_SPACED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]+)?")


def without_commas(text: str) -> str:
    """``1,234`` as ``1234``; other commas stay."""
    return _GROUPED.sub(lambda match: match[0].replace(",", ""), text)


def without_thousands(text: str) -> str:
    """Read ``1,234`` as one number, also inside a list; ``1 234`` only where nothing else is there."""
    text = without_commas(text)
    return text.replace(" ", "") if _SPACED.fullmatch(text) else text


_DOUBLE_FACTORIAL = re.compile(r"(?<![0-9A-Za-z.,)}!])([0-9]{1,2})!!(?!!)")


def spell_double_factorials(text: str) -> str:
    """``5!!`` as 5 * 3 * 1 = ``15``; it is not the factorial of a factorial."""
    return _DOUBLE_FACTORIAL.sub(lambda match: str(math.prod(range(int(match[1]), 0, -2))), text)


_SMALL = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMERALS = ("zero", "one", *_SMALL, "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMERAL = re.compile(
    rf"(?:\\(?:text|mbox|mathrm|textbf) ?\{{ ?)?(?:({'|'.join(_TENS)})[- ]?)?((?<!y)(?<!y[- ])(?:{'|'.join(_NUMERALS)})"
    rf"|(?:{'|'.join(_NUMERALS[1:10])}))?(?: ?\}})?",
    re.IGNORECASE,
)


_PARTS = {"hal(?:f|ves)": 2, "thirds?": 3, "(?:fourth|quarter)s?": 4} | {
    f"{name}s?": n for n, name in enumerate(("fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), start=5)
}
_PART = re.compile(
    rf"(?:\\(?:text|mbox|mathrm|textbf) ?\{{ ?)?({'|'.join(_NUMERALS[1:10])})[- ]"
    rf"(?:{'|'.join(f'({part})' for part in _PARTS)})(?: ?\}})?",
    re.IGNORECASE,
)


def spell_numerals(text: str) -> str:
    r"""``five``, ``\text{Twenty-one}`` as digits, ``two thirds`` as a fraction, where nothing else is there."""
    if part := _PART.fullmatch(text):
        bottom = next(n for place, n in enumerate(_PARTS.values(), start=2) if part[place])
        return rf"\frac{{{_NUMERALS.index(part[1].casefold())}}}{{{bottom}}}"
    match = _NUMERAL.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return text
    tens = 10 * _TENS.index(match[1].casefold()) + 20 if match[1] else 0
    return str(tens + (_NUMERALS.index(match[2].casefold()) if match[2] else 0))


_BASED = re.compile(r"([0-9A-Za-z]{1,60}) ?_ ?(?:\{ ?(?:\\text ?\{ ?)?([0-9]{1,2}|[a-z]+) ?\}{1,2}|([0-9]))")
_BASES = {name: base for base, name in enumerate(_SMALL, start=2)} | {"sixteen": 16}


def based_number(text: str) -> tuple[str, int] | None:
    """Read ``204_5``: its digits and its base, 2 to 36; None for anything else, such as ``x_5`` or ``a_{n}``."""
    match = _BASED.fullmatch(text)
    if match is None or not match[1][0].isdigit():
        return None
    said = match[2] or match[3]
    base = int(said) if said.isdigit() else _BASES.get(said, 0)
    try:
        return (match[1].lower(), base) if 2 <= base <= 36 and int(match[1], base) >= 0 else None
    except ValueError:  # a digit that the base does not have
        return None
