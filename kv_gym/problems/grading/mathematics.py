"""Parse LaTeX with latex2sympy2 and compare with sympy, exactly; runs in the worker.

Numbers are equal if 350 digits show no difference. Formulas are compared at eight points in the same way, which
decides at once what `simplify` takes seconds for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.logic import And as Chain
from sympy.core.relational import Relational

DIGITS, MOST_DIGITS = 50, 400  # at math-verify's 15, pi*10^-20 and 2*pi*10^-20 count as equal
CLOSE, CLOSEST = sympy.Rational(1, 10**40), sympy.Rational(1, 10**350)
NOWHERE = sympy.S.EmptySet
ENOUGH = 3  # points at which formulas must be known to be equal
# To 400 digits, the first value of a factorial between integers takes a second; what makes them equal is found at once.
FACTORIALS = (sympy.gamma, sympy.factorial, sympy.binomial)
FEW_DIGITS, MOST_FACTORS = 15, 50
# Values of variables: of both signs, no integers; the far ones tell |x - 100| from 100 - x. Further
# out, sympy's `evalf` of cot(x) has less digits than it was asked for.
POINTS = [sympy.Rational(n, 97) for n in (31, -17, 223, -389, 1009, 571, 98_765, -876_543)]


@dataclass(frozen=True)
class Several:
    """Answers without brackets, as in ``1, 2``: their order matters only where the other side has one."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Chained:
    """The relations of ``1 < x < 3``, which hold all."""

    relations: tuple[Any, ...]


def never_evaluate() -> None:
    """Take Python's `eval` out of sympy: `sympify` runs it on any string, even on the digits of a parsed number."""
    from sympy.parsing import sympy_parser

    sympy_parser.parse_expr = _literal


def _literal(text: str, *_: object, **__: object) -> Any:
    """Read a name or a number as sympy would, but decimals exactly."""
    return sympy.Symbol(text) if text.isidentifier() else sympy.Rational(text)


# No units: they include c, h, m, s and t, so that 2t would be 2.
_NORMALIZATION = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
_DROPPED = re.compile(r"\\[lc]?dots(?![A-Za-z])|\.\.|[\"']|\\prime(?![A-Za-z])|!!|\^ ?\{? ?(?:T|\\top)(?![A-Za-z])")
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
# x^2^3 is no TeX, and read as (x^2)^3; \frac123 is 1/2 times 3, but hardly meant. x^2y^3 is clear: y is the base.
_UNCLEAR = re.compile(rf"\^ ?(?:{_GROUP}|[0-9]+|[A-Za-z]|\\[A-Za-z]+) ?\^|\\frac ?{_GROUP} ?{_GROUP} ?[0-9]")
_CONVERSION = ConversionConfig(lowercase_symbols=False)


@functools.lru_cache(256)
def parse(text: str) -> Any:
    r"""Parse one LaTeX expression, all of it, and evaluate what can be.

    The two steps inside `math_verify.parse`, without its search for something to parse: there,
    ``14 \text{ answer } \frac{4}{1}`` is 4.

    Raises:
        Exception: Of whatever class latex2sympy2 raises, where it understands no more.
    """
    if _DROPPED.search(text) or _UNCLEAR.search(text):
        raise ValueError("latex2sympy2 would drop a part of it, or read it otherwise")
    found = latex2sympy(
        normalize_latex(text, _NORMALIZATION), is_real=True, normalization_config=None, conversion_config=_CONVERSION
    )
    return _evaluated(found)


def _evaluated(value: Any) -> Any:
    if isinstance(value, Chain):
        return Chained(tuple(map(_evaluated, value._unsorted_args)))
    if isinstance(value, Relational):
        return type(value)(*(_evaluated(side) for side in value.args), evaluate=False)
    imaginary = {symbol: sympy.I for symbol in value.free_symbols if symbol.name in ("i", "imath")}
    return (value.subs(imaginary) if imaginary else value).doit()


def scaled(value: Any, factor: Fraction) -> Any:
    """A value in other units."""
    return value if factor == 1 else value * sympy.Rational(factor.numerator, factor.denominator)


def same(answer: Any, gold: Any) -> bool:
    """Whether two parsed values are equal: numbers, formulas, tuples, sets, intervals, matrices, relations."""
    if isinstance(answer, Relational) or isinstance(gold, Relational):
        return _same_relations(answer, gold)
    if isinstance(answer, sympy.MatrixBase) or isinstance(gold, sympy.MatrixBase):
        return _same_matrices(answer, gold)
    if any(isinstance(value, Several | sympy.Tuple | sympy.Set) for value in (answer, gold)):
        return _same_collections(answer, gold)
    return same_scalars(answer, gold)


# --- Collections -------------------------------------------------------------------------------------------------


def _same_collections(answer: Any, gold: Any) -> bool:
    """Compare sets, tuples, intervals and lists. A set of one is its element; a tuple is no set."""
    answer, gold = _alone(answer), _alone(gold)
    if isinstance(answer, sympy.Set) and isinstance(gold, sympy.Set):
        return _same_sets(answer, gold)
    if isinstance(answer, Several) and isinstance(gold, Several):
        return matched(answer.items, gold.items)
    for one, other in ((answer, gold), (gold, answer)):
        if isinstance(one, sympy.FiniteSet):
            return not isinstance(other, sympy.Tuple) and matched(_items(other), one.args)
    if not any(isinstance(value, Several | sympy.Tuple | sympy.Set) for value in (answer, gold)):
        return same(answer, gold)
    if any(isinstance(value, sympy.Set | sympy.Expr) and not _is_pair(value) for value in (answer, gold)):
        return False
    first, second = _items(answer), _items(gold)
    return len(first) == len(second) and all(map(same, first, second))


def _alone(value: Any) -> Any:
    """The only element of a set, unless that is a set."""
    single = isinstance(value, sympy.FiniteSet) and len(value) == 1
    return value.args[0] if single and (_is_pair(value.args[0]) or not isinstance(value.args[0], sympy.Set)) else value


def _is_pair(value: Any) -> bool:
    """Whether it was written ``(1, 2)``: an open interval, or two coordinates."""
    return isinstance(value, sympy.Interval) and bool(value.left_open and value.right_open)


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, Several):
        return value.items
    if isinstance(value, sympy.Interval):
        return (value.start, value.end)
    return value.args if isinstance(value, sympy.Tuple) else (value,)


def matched(said: Sequence[Any], wanted: Sequence[Any], same: Callable[[Any, Any], bool] = same) -> bool:
    """Whether each of `wanted` has its own equal in `said`, in any order."""
    left = list(said)
    for one in wanted:
        place = next((i for i, other in enumerate(left) if same(other, one)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _same_sets(answer: Any, gold: Any) -> bool:
    if answer == gold:
        return True
    if isinstance(answer, sympy.Interval) and isinstance(gold, sympy.Interval):
        return answer.args[2:] == gold.args[2:] and same(answer.start, gold.start) and same(answer.end, gold.end)
    if isinstance(answer, sympy.FiniteSet) and isinstance(gold, sympy.FiniteSet):
        return matched(answer.args, gold.args)
    if type(answer) is type(gold) and isinstance(answer, sympy.Union):
        return matched(answer.args, gold.args)
    return bool(answer.is_subset(gold)) and bool(gold.is_subset(answer))


def _same_matrices(answer: Any, gold: Any) -> bool:
    if not isinstance(answer, sympy.MatrixBase) or not isinstance(gold, sympy.MatrixBase):
        return False
    return answer.shape == gold.shape and all(map(same, answer.flat(), gold.flat()))


# --- Relations ---------------------------------------------------------------------------------------------------


def variables(relations: Sequence[Any]) -> frozenset[str]:
    """Names of the variables that relations are about; a set is about none."""
    return frozenset(symbol.name for relation in relations for symbol in relation.free_symbols)


def both(relations: Sequence[Any]) -> Any:
    """Where all of them hold; they are about one variable."""
    return relations[0] if len(relations) == 1 else sympy.Intersection(*map(_as_set, relations))


def either(relations: Sequence[Any]) -> Any:
    """Where one of them holds; they are about one variable."""
    return relations[0] if len(relations) == 1 else sympy.Union(*map(_as_set, relations))


def same_conditions(answer: Sequence[Any], gold: Sequence[Any]) -> bool:
    """Whether relations that hold all are the same, those about one variable taken together: ``x>1, x<3, y>2``."""
    return matched(_by_variable(answer), _by_variable(gold), _same_condition)


def _by_variable(relations: Sequence[Any]) -> list[tuple[frozenset[str], Any]]:
    groups: dict[frozenset[str], list[Any]] = {}
    for relation in relations:
        groups.setdefault(variables([relation]), []).append(relation)
    merged = [(names, [both(group)] if len(names) == 1 else group) for names, group in groups.items()]
    return [(names, relation) for names, group in merged for relation in group]


def _same_condition(answer: tuple[frozenset[str], Any], gold: tuple[frozenset[str], Any]) -> bool:
    return answer[0] == gold[0] and same(answer[1], gold[1])


def _as_set(value: Any) -> Any:
    """The values of the only variable for which an inequality holds."""
    return value.as_set() if isinstance(value, Relational) else value


def _same_relations(answer: Any, gold: Any) -> bool:
    if isinstance(answer, sympy.Set) or isinstance(gold, sympy.Set):
        return not any(isinstance(value, sympy.Eq) for value in (answer, gold)) and same(_as_set(answer), _as_set(gold))
    if not isinstance(answer, Relational) or not isinstance(gold, Relational):
        return False
    answer, gold = (value.reversed if value.rel_op in (">", ">=") else value for value in (answer, gold))
    if answer.rel_op != gold.rel_op:
        return False
    ratio = _ratio(answer.lhs - answer.rhs, gold.lhs - gold.rhs)
    return ratio is not None and (ratio > 0 or gold.rel_op in ("==", "!="))


def _ratio(answer: Any, gold: Any) -> Any:
    """The number that one formula is of the other; None if there is none."""
    values = _values(sorted(answer.free_symbols | gold.free_symbols, key=str), 0)
    ratio = answer.subs(values) / gold.subs(values)
    if not (ratio.is_real and ratio.is_finite) or ratio.is_zero:
        return None
    return ratio if same_scalars(answer, ratio * gold) else None


def same_equations(sides: Sequence[str], gold_sides: Sequence[str]) -> bool:
    """Whether two equations say the same, as ``x + y = 1`` and ``2y = 2 - 2x``."""
    if len(sides) != 2 or len(gold_sides) != 2:
        return False
    left, right, gold_left, gold_right = map(parse, (*sides, *gold_sides))
    if not (left - right).free_symbols:  # 1 = 2 says nothing that 3 = 4 could say, too
        return False
    return _ratio(left - right, gold_left - gold_right) is not None


# --- Scalars -----------------------------------------------------------------------------------------------------


def same_scalars(answer: Any, gold: Any) -> bool:
    """Whether two numbers or formulas are equal, with roots as sympy takes them or as people do who know no others."""
    if _equal(answer, gold):
        return True
    said, wanted = _with_real_roots(answer), _with_real_roots(gold)
    return (said, wanted) != (answer, gold) and _equal(said, wanted)


def _with_real_roots(value: Any) -> Any:
    """The cube root of -8 as -2, and other odd ones of real numbers: sympy's are the first in the complex plane."""

    def is_odd_root(part: Any) -> bool:
        odd = part.is_Pow and part.exp.is_Rational and part.exp.q > 1 and part.exp.q % 2 == 1
        return bool(odd) and part.base.is_real is not False and not part.base.has(sympy.I)

    return value.replace(
        is_odd_root,
        lambda part: sympy.sign(part.base) ** part.exp.p * sympy.Abs(part.base) ** part.exp,
    )


def _equal(answer: Any, gold: Any) -> bool:
    if answer == gold:
        return answer not in (sympy.nan, sympy.zoo)
    variables = sorted(answer.free_symbols | gold.free_symbols, key=str)
    if variables and _is_one_factorial(answer, gold, _values(variables, 0)):
        return True
    if not variables:
        verdict = _same_numbers(answer, gold)
        return sympy.simplify(answer - gold) == 0 if verdict is None else verdict
    agreed = 0
    for shift in range(len(POINTS)):
        values = _values(variables, shift)
        verdict = _same_numbers(answer.subs(values), gold.subs(values))
        if verdict is False:
            return False
        agreed += verdict is True
    return agreed >= ENOUGH or sympy.simplify(answer - gold) == 0


def _is_one_factorial(answer: Any, gold: Any, values: dict[Any, Any]) -> bool:
    """Whether rules for factorials make two formulas one, as n! and n (n-1)!.

    Only where few digits show no difference, and between small numbers: the rules write (n+k)!/n! out factor by factor.
    """
    both = answer - gold
    if not both.has(*FACTORIALS) or any(abs(number) > MOST_FACTORS for number in both.atoms(sympy.Integer)):
        return False
    first, second = (side.subs(values).evalf(FEW_DIGITS) for side in (answer, gold))
    known = all(value.is_number and value.is_finite for value in (first, second))
    return known and bool(abs(first - second) <= 1e-9 * abs(first)) and sympy.combsimp(both) == 0


def _values(variables: Sequence[Any], shift: int) -> dict[Any, Any]:
    """Another value for each variable."""
    return {symbol: POINTS[(shift + 3 * i) % len(POINTS)] + i for i, symbol in enumerate(variables)}


def _same_numbers(answer: Any, gold: Any) -> bool | None:
    """Whether two numbers are equal; None where sympy cannot say, as for a sum that cancels to 0."""
    if answer.is_Rational and gold.is_Rational:
        return bool(answer == gold)
    first, second = _number(answer), _number(gold)
    if first is None or second is None:
        return None
    if first.is_infinite or second.is_infinite:
        return bool(first == second)
    size = max(abs(first), abs(second))
    if abs(first - second) > CLOSE * size:
        return False
    rest = (answer - gold).evalf(2, maxn=MOST_DIGITS)  # with as many digits as it takes to see that it is not 0
    return bool(abs(rest) <= CLOSEST * size)


def _number(value: Any) -> Any:
    """The value to `DIGITS` digits; None where sympy cannot say, or not to so many."""
    found = value.evalf(DIGITS)
    if not found.is_number or found.has(sympy.nan, sympy.zoo, sympy.AccumBounds):
        return None
    parts = found.as_real_imag() if found.is_finite else (found,)
    exact = all((part.is_Float and part._prec > 100) or part.is_Integer or part.is_infinite for part in parts)
    return found if exact else None
