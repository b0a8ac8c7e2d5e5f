r"""Decide whether two answers are the same; runs in the worker, as sympy may take long.

    two texts -> tidy -> lists, in each reading of their commas -> items without unit and name -> words or mathematics

What makes two answers equal is said in docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from kv_gym.problems.grading import mathematics
from kv_gym.problems.grading.names import NAME
from kv_gym.problems.grading.numbers import based_number, plain_number, without_thousands
from kv_gym.problems.grading.ratios import same_ratios
from kv_gym.problems.grading.spelling import depths, tidy
from kv_gym.problems.grading.units import Unit, split_letter, split_unit
from kv_gym.problems.grading.words import as_words, chosen, labelled, means_empty_set, same_letters, spoken

_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|neq)(?![A-Za-z])")
_MEMBER = re.compile(r"^[A-Za-z](?:_\{?[0-9A-Za-z]+\}?)? ?\\in(?![A-Za-z]) ?")
_PLUS_MINUS = re.compile(r"\\[pm][mp](?![A-Za-z])")
_OR, _AND = re.compile(r" ?\\lor(?![A-Za-z]) ?"), re.compile(r" ?\\land(?![A-Za-z]) ?")
_CONNECTIVE = re.compile(r"\\(?:lor|land)(?![A-Za-z])")
_APPROXIMATE = re.compile(r"\\(?:thick)?(?:approx|sim)(?:eq)?(?![A-Za-z])|\\doteq(?![A-Za-z])|≈|≃")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?[0-9A-Za-z]+\}?)?|[A-Za-z]\([A-Za-z0-9]\)")
_ORDERED = re.compile(r"[A-Za-z]|\\[a-z]+")
_LABEL = re.compile(r"(?:m? ?\\(?:measured)?angle ?)?((?:\\triangle ?)?)\{? ?([A-Z]{3,}) ?\}?")
_TWO_NUMBERS = re.compile(r"[0-9] [0-9]+(?![0-9]| ?/)")  # "10 4" would be read as 10 + 4


def same(answer: str, gold: str) -> bool:
    """Say whether an answer means the same as the gold one. What cannot be understood is not the same."""
    answer, gold = tidy(answer), tidy(gold)
    if answer == gold:
        return True
    return any(_same_as_read(said, wanted) for wanted in _readings(gold, True) for said in _readings(answer, False))


def _same_as_read(answer: str, gold: str) -> bool:
    try:
        return _same_lists(answer, gold)
    except MemoryError:  # ends the worker: nobody knows
        raise
    except Exception:  # what cannot be parsed or compared is not the answer
        return False


def _readings(text: str, gold: bool) -> list[str]:
    """``1,234`` is a number, or two. A bare gold one is a number; in brackets, or from an LLM, it may be either."""
    number = without_thousands(text)
    if number == text or (gold and text[:1] not in ("(", "[", "{", "\\")):
        return [number]
    return [number, text]


# --- Lists -------------------------------------------------------------------------------------------------------


def _same_lists(answer: str, gold: str) -> bool:
    if _INEQUALITY.search(gold) or _INEQUALITY.search(answer):
        return _same_ranges(answer, gold)
    said, wanted = _items(answer), _items(gold)
    if len(said) == len(wanted) == 1:
        return _same_items(said[0], wanted[0])
    if len(said) > 1 and len(wanted) > 1:
        if any(map(_VARIABLE.fullmatch, wanted)) and _connectives(answer, gold):  # p and q is not p or q
            return False
        ordered, gold_ordered = _by_name(said), _by_name(wanted)
        if (ordered is None) != (gold_ordered is None):  # 6, 1 is not x=1, y=6
            pairs = zip(ordered or said, gold_ordered or wanted, strict=False)
            return len(said) == len(wanted) and all(_same_items(*pair) for pair in pairs)
        return mathematics.matched(said, wanted, _same_items)
    return mathematics.same(_collected(said), _collected(wanted))


def _items(text: str) -> list[str]:
    r"""Split ``x=1, x=2`` or ``1 \lor 2``, not inside brackets; ``1 \pm 2`` are two, unless in a set."""
    items = [item.strip() for item in split(_AND.sub(", ", _OR.sub(", ", text)))]
    return [item for both in items for item in _signs(both)]


def _connectives(*texts: str) -> bool:
    r"""Whether two texts have connectives, ``\land`` and ``\lor``, and not the same."""
    first, second = map(_CONNECTIVE.findall, texts)
    return bool(first and second) and first != second


def _by_name(items: list[str]) -> list[str] | None:
    """``y=2, x=1`` in the order of names; None unless each is another letter: words and indices have no such order."""
    sides = [_sides(item) for item in items]
    names = [side[0] for side in sides if len(side) > 1 and _ORDERED.fullmatch(side[0])]
    if len(set(names)) < len(items):
        return None
    return [item for _, item in sorted(zip(names, items, strict=True))]


def _signs(text: str) -> list[str]:
    if "\\{" in text or not _PLUS_MINUS.search(text):
        return [text]
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    return [upper, text.replace("\\pm", "-").replace("\\mp", "+")]


def split(text: str) -> list[str]:
    """Split at commas outside all brackets."""
    parts, start = [], 0
    for place, (character, depth) in enumerate(zip(text, depths(text), strict=True)):
        if depth == 0 and character == ",":
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _brackets(text: str) -> str:
    """The kind of a list in brackets, ``()`` or ``[)``; "" for anything else."""
    found = depths(text)
    whole = text[:1] in ("(", "[") and text[-1:] in (")", "]") and 0 not in found[:-1]
    return text[0] + text[-1] if whole and len(split(text[1:-1])) > 1 else ""


def _is_row(text: str) -> bool:
    """Whether it is ``[5]``, one number in square brackets, which is not 5."""
    return (
        text[:1] == "["
        and text[-1:] == "]"
        and "\\begin" not in text
        and 0 not in depths(text)[:-1]
        and not _brackets(text)
    )


def _collected(items: list[str]) -> Any:
    """The value of a single item, or a `mathematics.Several` of items; ``y=2, x=1`` in the order of names."""
    names = [_sides(item)[0] for item in items]
    if all(len(_sides(item)) > 1 and NAME.fullmatch(name) for item, name in zip(items, names, strict=True)):
        items = [item for _, item in sorted(zip(names, items, strict=True), key=lambda named: named[0])]
    values = tuple(mathematics.parse(_value(split_unit(item)[0])) for item in items)
    return values[0] if len(values) == 1 else mathematics.Several(values)


# --- Single answers ----------------------------------------------------------------------------------------------


def _same_items(answer: str, gold: str) -> bool:
    """Compare two answers that are no lists: words, equations or values."""
    if answer == gold:
        return True
    said, wanted = as_words(answer), as_words(gold)
    letter = labelled(gold) or (gold if re.fullmatch("[A-Z]", gold) else wanted)
    choice = chosen(answer)
    if choice and letter and letter.casefold() == choice.casefold():
        return True
    if said is not None or wanted is not None:
        return _same_words(said, answer, wanted, gold)
    if (letters := same_letters(answer, gold)) is not None:
        return letters
    sides, gold_sides = _sides(answer), _sides(gold)
    if len(sides) > 1 and len(gold_sides) > 1 and sides[0] != gold_sides[0]:
        label, gold_label = _LABEL.fullmatch(sides[0]), _LABEL.fullmatch(gold_sides[0])
        if label and gold_label:  # no products: the angle ABC is CBA, not BAC
            same_label = label[1] == gold_label[1] and label[2] in (gold_label[2], gold_label[2][::-1])
            return same_label and all(_same_quantities(side, _value(gold)) for side in _claims(sides))
        return mathematics.same_equations(sides, gold_sides)
    return all(_same_quantities(side, _value(gold)) for side in _claims(sides))


def _same_words(said: str | None, answer: str, wanted: str | None, gold: str) -> bool:
    if "\\emptyset" in (answer.strip(), gold.strip()):
        return means_empty_set(said or wanted or "")
    first, second = said or spoken(answer), wanted or spoken(gold)
    return first == second != "" or (means_empty_set(first) and means_empty_set(second))


def _same_quantities(answer: str, gold: str) -> bool:
    """Compare values with their units; ``2 mg`` may be a product, too."""
    (said, unit), (wanted, gold_unit) = split_unit(answer), split_unit(gold)
    if _same_measures(said, unit, wanted, gold_unit):
        return True
    if gold_unit and not unit and (lettered := split_letter(answer, gold_unit))[1]:
        return _same_measures(*lettered, wanted, gold_unit)
    if unit and not gold_unit and (lettered := split_letter(gold, unit))[1]:
        return _same_measures(said, unit, *lettered)
    bare = (unit and unit.bare) or (gold_unit and gold_unit.bare)
    return bool(bare) and _same_values(answer, gold, Fraction(1))


def _same_measures(answer: str, unit: Unit | None, gold: str, gold_unit: Unit | None) -> bool:
    """Compare values without their units; one that is not there is the other's."""
    factor = Fraction(1)
    if unit and gold_unit:
        if unit.kinds != gold_unit.kinds:
            return False
        factor = unit.factor / gold_unit.factor
    elif not all(one.optional for one in (unit, gold_unit) if one):
        return False
    if ("\\%" in answer) != ("\\%" in gold) and not (
        unit or gold_unit
    ):  # 50\% is 0.5, and 50 where only one side has the sign
        numbers = answer.replace("\\%", ""), gold.replace("\\%", "")
        if _same_values(*numbers, factor):
            return True
    return _same_values(answer, gold, factor)


def _same_values(answer: str, gold: str, factor: Fraction) -> bool:
    """Compare numbers and formulas; `answer` is in units of `factor` times those of `gold`."""
    kind, gold_kind = _brackets(answer), _brackets(gold)
    if not answer or _TWO_NUMBERS.search(answer) or _TWO_NUMBERS.search(gold):
        return False
    if (kind and gold_kind and kind != gold_kind) or _is_row(answer) != _is_row(gold):
        return False
    if (ratios := same_ratios(answer, gold)) is not None:
        return ratios and factor == 1
    based, gold_based = based_number(answer), based_number(gold)
    if gold_based:
        return based == gold_based or (based is None and answer.casefold() == gold_based[0])  # it may be left out
    if based:
        answer = str(int(*based))
    left, right = plain_number(answer), plain_number(gold)
    if left is not None and right is not None:
        return left * factor == right
    return mathematics.same(mathematics.scaled(mathematics.parse(answer), factor), mathematics.parse(gold))


# --- Equations ---------------------------------------------------------------------------------------------------


def _sides(text: str) -> list[str]:
    """The sides of ``x = 8/2 = 4``, the name first: ``5 = x`` says the same as ``x = 5``."""
    text = _MEMBER.sub("", text)
    sides = [side.strip() for side in _split_equations(text)]
    first_names = NAME.fullmatch(sides[0]) and (_VARIABLE.fullmatch(sides[0]) or not _VARIABLE.fullmatch(sides[-1]))
    if len(sides) > 1 and not first_names and NAME.fullmatch(sides[-1]):
        sides = [sides[-1], *sides[:-1]]
    return sides


def _split_equations(text: str) -> Iterator[str]:
    start = 0
    for place, (character, depth) in enumerate(zip(text, depths(text), strict=True)):
        if character == "=" and depth == 0 and text[place - 1 : place] not in ("<", ">", "!", ":"):
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _claims(sides: list[str]) -> list[str]:
    """What is claimed to be the value: all sides but a name. ``14 = 4`` must not count as 4."""
    sides = [_exactly(side) for side in sides]
    if len(sides) > 1 and NAME.fullmatch(sides[0]) and not _in_other_order(sides[0]):
        return sides[1:]
    return sides


def _in_other_order(name: str) -> bool:
    """Whether it is ``(y,x)``: what follows is not what ``(x,y)`` is."""
    letters = [letter.strip() for letter in split(name.strip(" ()"))]
    ordered = sorted(letters, key=lambda letter: (letter[:1] == "\\", letter[:1] != "\\" and letter))
    return len(letters) > 1 and letters != ordered


def _exactly(side: str) -> str:
    r"""``1/3`` of ``1/3 \approx 0.333``; there is no rounding, so ``x \approx 5`` claims nothing."""
    exact, *rounded = _APPROXIMATE.split(side)
    if rounded and NAME.fullmatch(exact.strip()):
        raise ValueError("a rounded answer")
    return exact.strip() if rounded else side


def _value(text: str) -> str:
    """The last side of ``x = 4``; an equation such as ``2x + y = 4`` stays."""
    sides = _sides(text)
    return " = ".join(sides) if len(sides) == len(_claims(sides)) else sides[-1]


# --- Inequalities ------------------------------------------------------------------------------------------------


def _same_ranges(answer: str, gold: str) -> bool:
    """Compare ``x < 3`` with ``3 > x`` and with an interval; only what is about one variable is a set."""
    (said, name), (wanted, gold_name) = _alternatives(answer), _alternatives(gold)
    names = mathematics.variables([relation for side in said for relation in side]) | name
    gold_names = mathematics.variables([relation for side in wanted for relation in side]) | gold_name
    if names and gold_names and names != gold_names:
        return False
    if max(len(names), len(gold_names)) < 2:
        return mathematics.same(_range(said, answer), _range(wanted, gold))
    return mathematics.matched(said, wanted, mathematics.same_conditions)


def _alternatives(text: str) -> tuple[list[list[Any]], frozenset[str]]:
    r"""The relations of ``x<1 \lor 2<x<3``: alternatives, of relations that hold all; and the name of ``x \in``."""
    member = _MEMBER.match(text)
    if not _INEQUALITY.search(text):
        names = frozenset({re.sub(r"[{} ]|\\in", "", member[0])} if member else ())
        return [[_collected([_MEMBER.sub("", text)])]], names
    return [_relations(side) for side in _OR.split(text)], frozenset()


def _relations(text: str) -> list[Any]:
    parsed = [mathematics.parse(part.strip()) for part in split(_AND.sub(",", text))]
    return [
        relation
        for value in parsed
        for relation in (value.relations if isinstance(value, mathematics.Chained) else (value,))
    ]


def _range(alternatives: list[list[Any]], text: str) -> Any:
    """The set of values; ``x<1, x>2``, which holds nowhere, is meant as either, ``x<1 and x>2`` is not."""
    [first, *others] = alternatives
    met = mathematics.both(first)
    listed = len(first) > 1 and not others and not _AND.search(text) and len(split(text)) == len(first)
    if listed and met == mathematics.NOWHERE:
        return mathematics.either(first)
    return mathematics.either([met, *map(mathematics.both, others)])
