r"""Units behind a number: ``5\text{ km}``, ``90^\circ``, ``\$18``, ``5 apples``.

A unit may be left out, and 5 km are 5000 m, but where both sides name one they must agree. Only what is surely a unit
may be left out: a known one, or a plural that is no number (``apples``, not ``sixths``); ``5 lakh`` is not 5.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

# Spellings of each unit, singular: what it measures, and how many of the first one of its kind.
_TABLE: dict[str, dict[str, Fraction]] = {
    "length": {
        "m meter metre": Fraction(1), "km Km kilometer kilometre": Fraction(1000), "cm centimeter centimetre":
        Fraction(1, 100), "mm millimeter millimetre": Fraction(1, 1000), "in inch inche": Fraction(254, 10_000),
        "ft foot feet": Fraction(3048, 10_000), "yd yard": Fraction(9144, 10_000), "mi mile": Fraction(1_609_344, 1000),
    },
    "time": {
        "s sec second": Fraction(1), "min minute": Fraction(60), "h hr Hr hour": Fraction(3600),
        "day": Fraction(86_400), "week": Fraction(604_800), "ms millisecond": Fraction(1, 1000),
    },
    "month": {"month": Fraction(1), "yr year": Fraction(12)},
    "mass": {
        "g gram": Fraction(1), "kg Kg kilogram": Fraction(1000), "mg milligram": Fraction(1, 1000), "ton tonne":
        Fraction(1_000_000),
    },
    "weight": {"oz ounce": Fraction(1), "lb pound": Fraction(16)},
    "money": {"dollar usd": Fraction(1), "cent": Fraction(1, 100)},
    "angle": {"degree deg": Fraction(1)},
    "litre": {"l L liter litre": Fraction(1), "ml mL milliliter millilitre": Fraction(1, 1000)},
}  # fmt: skip
_COMPOUND = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h"}
_KNOWN = {
    word: (kind, factor) for kind, units in _TABLE.items() for words, factor in units.items() for word in words.split()
}
_NO_MEANING = {"", "unit", "of", "the", "a", "an", "in", "total", "ways", "way"}
# Plurals without an s, and times of the day; behind a plural may stand what it is counted by or where.
_COUNTED = {"people", "children", "men", "women", "mice", "geese", "teeth", "fish", "sheep", "deer", "am", "pm", "unit"}
_BEHIND_COUNTED = {"of", "in", "per", "each", "left", "remaining", "total", "altogether", "a", "an"}


@dataclass(frozen=True)
class Unit:
    """What is counted or measured.

    Attributes:
        kinds: (What, power), sorted: speed is (("length", 1), ("time", -1)). A word that is no known unit is its own.
        factor: How many of the first units of these kinds it is.
        bare: Written as letters alone, ``2 mg``, which may as well be a product.
        optional: Whether it may be left out; a word that could change the value may not.
    """

    kinds: tuple[tuple[str, int], ...]
    factor: Fraction
    bare: bool = False
    optional: bool = True


_WRAPPED = r"\\(?:text|mbox|mathrm|textrm|textbf|operatorname|rm)\s?\{[^{}]*\}"
_POWER = r"(?:\^\s?(?:\{\s?-?[1-9]\s?\}|-?[1-9]))"
_DEGREE = r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))"
# Behind a number or a name. Words that change the value are no units: sums, comparisons, numbers, parts, verdicts.
_ORDINAL = r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]*teen|[a-z]+tie|hundred|thousand|[a-z]*illion)th"
_NO_UNIT = (
    r"(?!.*(?i:\b(?:or|and|not|non|no|to|mod(?:ulo)?|plus(?:es)?|minus(?:es)?|times|over|under|divided|squared|cubed|base"
    r"|is|are|was|if|only|more|less|fewer|at|most|least|than|about|approximately|nearly|almost|exactly|roughly|below"
    r"|above|before|after|short|loss(?:es)?|wrong|incorrect|false|undefined|always|perhaps|maybe"
    r"|(?:dozen|pair|couple|trio|quartet|gross|score|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|hundred|thousand|grand|lakh|crore|million|billion|[a-z]*illion|double|triple|quadruple|single|quarter|half|third|percent"
    r"|percentage|permille|negative|positive|factorial|inverse|reciprocal|square root|cube root|root|remainder|power"
    rf"|halve|{_ORDINAL})(?:s|es)?)\b))"
)
_TEXT_UNIT = re.compile(
    rf"(?<=[^\s=+*<>,({{/^_|-])\s?{_NO_UNIT}({_WRAPPED}{_POWER}?(?:\s?(?:/|\\cdot)?\s?{_WRAPPED}{_POWER}?)*)$"
)
_DEGREE_UNIT = re.compile(rf"(?<=[^\s=+*<>,(/^_|-])\s?{_DEGREE}\s?((?:\\(?:text|mathrm)\s?\{{\s?)?[CF](?:\s?\}})?)?$")
_WORD_UNIT = re.compile(rf"(?<=[0-9}}])(\s?){_NO_UNIT}([A-Za-z](?:[A-Za-z ./^0-9]|\^\s?\{{\s?-?[1-9]\s?\}})*)$")
_LETTER_UNIT = re.compile(r"(?<=[0-9}])\s?([A-Za-z])$")
_MODULUS = re.compile(r"\s?\(?\\pmod(?![A-Za-z])\s?\{?\s?([0-9]+)\s?\}?\)?$")
_NUMBER = re.compile(r"(?<![A-Za-z^{-])[0-9]|[0-9]{2}")  # anything but the power of a unit: cm^2, cm2
_SIGN = r"(?:(?:US)?\\?\$|USD|\\textdollar|\\pounds|\\euro)"
_CURRENCY = re.compile(rf"^([+-]?)\s?({_SIGN})(?![A-Za-z])\s?|()\s?({_SIGN})$")
_CURRENCIES = {"\\pounds": "pound sterling", "\\euro": "euro"}


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Take the unit off: (``5``, centimetres) of ``5\text{ cm}``; (text, None) where there is none."""
    if match := _CURRENCY.search(text):
        sign = match[2] or match[4]
        return _CURRENCY.sub(r"\1\3", text), _unit(_CURRENCIES.get(sign, "dollar"))
    if match := _MODULUS.search(text):
        return text[: match.start()], Unit(((f"mod {int(match[1])}", 1),), Fraction(1))
    if match := _DEGREE_UNIT.search(text):
        scale = re.sub("[^CF]", "", (match[1] or "").replace("\\text", "").replace("\\mathrm", ""))
        return text[: match.start()].rstrip(), _unit("degree" + scale)
    if match := _TEXT_UNIT.search(text):
        words = re.sub(r"\\[a-z]+\s?\{([^{}]*)\}", r" \1 ", match[1].replace("\\cdot", " "))
        if not _NUMBER.search(words) and not re.search(r"[^A-Za-z0-9 ./^{}()-]", words):
            return text[: match.start()].rstrip(), _unit(words, optional=_may_be_left_out(words))
    match = _WORD_UNIT.search(text)
    if match and not _NUMBER.search(match[2]) and _is_word_unit(match[2], spaced=bool(match[1])):
        return text[: match.start()].rstrip(), _unit(match[2], bare=True, optional=_may_be_left_out(match[2]))
    return text, None


def split_letter(text: str, other: Unit) -> tuple[str, Unit | None]:
    """Take a letter off that is no product, but a unit of what the other side names: ``5 m`` beside kilometres."""
    match = _LETTER_UNIT.search(text)
    unit = _unit(match[1]) if match and match[1] in _KNOWN else None
    return (text[: match.start()], unit) if match and unit and unit.kinds == other.kinds else (text, None)


def _is_word_unit(words: str, spaced: bool) -> bool:
    """Whether bare letters are a unit, not a product: known ones of two letters, or a word with a vowel or two."""
    units = [word for word in re.split(r"[^A-Za-z]+", words) if word]
    if all(_singular(word) in _KNOWN or word in _COMPOUND for word in units):
        return len(units[0]) > 1 or (spaced and len(units) > 1 and "/" in words)
    return (
        spaced
        and not re.search(r"[0-9^]", words)
        and len(max(units, key=len)) > 3
        and re.search("[aeiouy]", words) is not None
    )


def _may_be_left_out(words: str) -> bool:
    """Whether words are surely a unit: ``cm``, ``red apples``, ``slices of pizza``; not ``lakh`` or ``July``."""
    found = [
        word
        for word in re.findall("[A-Za-z]+", words)
        if _singular(word) not in _NO_MEANING - _BEHIND_COUNTED - {"unit"}
    ]
    counted = [place for place, word in enumerate(found) if _is_counted(word)]
    if not counted:
        return all(word in _NO_MEANING for word in found)
    behind = found[counted[-1] + 1 :]
    return not behind or behind[0] in _BEHIND_COUNTED


def _is_counted(word: str) -> bool:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) and word.islower()
    return plural or _singular(word) in _KNOWN or word in _COMPOUND or word.replace(".", "").casefold() in _COUNTED


def _singular(word: str) -> str:
    """The name of a unit. ``mm`` and ``Mm`` are two; longer words may be capitalized."""
    if word in _KNOWN or len(word) < 3:
        return word
    word = word.casefold()
    return word if word in _KNOWN else word.removesuffix("s")


def _unit(words: str, bare: bool = False, optional: bool = True) -> Unit | None:
    """Read ``square km``, ``m/s^2``, ``m s^{-1}``, ``miles per hour``, ``apples``; None if it says nothing."""
    words = re.sub(r"\.(?=\s|$)", "", words).replace("{", "").replace("}", "")
    words = re.sub(r"\b(?:sq|square)\s+([A-Za-z]+)", r"\1^2", words)
    words = re.sub(r"\b(?:cu|cubic)\s+([A-Za-z]+)", r"\1^3", words)
    words = re.sub(r"\b(?:per|an?(?=\s+(?:hour|minute|second|day)))\b", "/", words)
    words = re.sub(r"[A-Za-z]+", lambda match: _COMPOUND.get(match[0].casefold(), match[0]), words)
    powers: Counter[str] = Counter()
    factor, side = Fraction(1), 1
    for slash, word, power in re.findall(r"(/)|([A-Za-z.]+)(?:\s?\^\s?)?(-?[1-9])?", words):
        if slash:
            side = -1
            continue
        name, exponent = _singular(word), side * int(power or 1)
        if name in _NO_MEANING:
            continue
        kind, size = _KNOWN.get(name, (name, Fraction(1)))
        powers[kind] += exponent
        factor *= size**exponent
    kinds = tuple(sorted((kind, power) for kind, power in powers.items() if power))
    return Unit(kinds, factor, bare, optional) if kinds else None
