r"""Bring spellings of the same answer together, before anything is parsed.

what the LLM wrote -> Unicode to ASCII and LaTeX -> delimiters, spaces, wrappers -> numbers and lists
"""

# ruff: noqa: RUF001  (look-alikes are what this is about)

from __future__ import annotations

import re
import unicodedata

from kv_gym.problems.grading.numbers import (
    spell_double_factorials,
    spell_numerals,
    spell_powers_of_ten,
    spell_repeating,
)

_SYMBOLS = {
    "√": r"\sqrt ", "∛": r"\sqrt[3] ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "º": r"^\circ ", "±": r"\pm ",
    "∓": r"\mp ", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\neq ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "⌀": r"\emptyset ", "∖": r"\setminus ", "∨": r"\lor ", "∧": r"\land ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "∠": r"\angle ", "∡": r"\angle ", "△": r"\triangle ",
    "€": r"\euro ", "£": r"\pounds ", "μ": r"\mu ", "µ": r"\mu ", "−": "-", "˗": "-",
}  # fmt: skip
_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "nu", "xi", "rho",
    "sigma", "tau", "phi", "chi", "psi", "omega",
)  # fmt: skip
_GREEK_LETTERS = {
    unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if name == 'lambda' else name}"): rf"\{name} " for name in _GREEK
}
_REPLACED = str.maketrans(_SYMBOLS | _GREEK_LETTERS)
_RANGE = re.compile(r"(?<=[0-9])[\N{EN DASH}\N{EM DASH}](?=[0-9])")
_OVER_DIGITS = re.compile("((?:[0-9]\N{COMBINING OVERLINE})+)")


def to_ascii(text: str) -> str:
    r"""Write Unicode as ASCII and LaTeX: ``½`` as ``\frac{1}{2}``, ``x²`` as ``x^{2}``, a wide ``１`` as ``1``.

    A dash between two digits, ``3–5``, stays: it is a range, no difference. Characters that nobody sees go.
    """
    if text.isascii():
        return text
    text = _OVER_DIGITS.sub(lambda match: rf"\overline{{{match[1][::2]}}}", text)
    kept = _RANGE.sub("\N{SWUNG DASH}", text)
    written = "".join(map(_character, kept)).translate(_REPLACED)
    return re.sub(r"\}\^\{", "", written) if "^{" in written else written  # x¹² is one exponent


def _character(character: str) -> str:
    if character in _SYMBOLS:
        return character
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width, joiners, marks of direction
        return ""
    if category == "Pd":
        return character if character == "\N{SWUNG DASH}" else "-"
    kind, *points = unicodedata.decomposition(character).split() or [""]
    plain = "".join(chr(int(point, 16)) for point in points if kind.startswith("<"))
    if kind == "<fraction>":
        top, _, bottom = plain.partition("\N{FRACTION SLASH}")
        return rf" \frac{{{top}}}{{{bottom}}}" if bottom else character
    if kind == "<super>":
        return "^{" + plain.replace("\N{MINUS SIGN}", "-") + "}"
    if kind == "<sub>":
        return "_{" + plain + "}"
    return unicodedata.normalize("NFKC", character)


_WRAPPER = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bold|bm|pmb|emph|underline"
    r"|operatorname)"
)
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|gcd|lcm|max|min|det"
_DEGREE = r"\^ ?(?:\{ ?\\(?:circ|degree) ?\}|\\(?:circ|degree)(?![A-Za-z]))|\\(?:degree|textdegree)(?![A-Za-z])"

# What a command takes as its argument without braces, as in \frac\pi2, and one in braces.
_TOKEN = rf"\\sqrt ?(?:\{{[^{{}}]*\}}|[0-9A-Za-z])|\\(?:pi|{'|'.join(_GREEK)})(?![A-Za-z])|[0-9A-Za-z]"
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"

# In this order.
_SPELLINGS = [
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|[bB]ig{1,2}[lrm]?|[lrm]?(?:left|right)(?![A-Za-z])\.?)"
                r"(?![A-Za-z])"), ""),
    (re.compile(r"\\[lr]vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<!\\)\\(?:[,;: >]|q?quad(?![A-Za-z])|thinspace(?![A-Za-z])|hspace ?\{[^{}]*\})|~"), " "),  # spaces
    (re.compile(r"\\(?:text)?color ?\{[^{}]*\}"), ""),
    (re.compile(r"\\mathbb ([A-Z])"), r"\\mathbb{\1}"),
    (re.compile(r"\s+"), " "),
    (re.compile(r" ?\\\\ ?$"), ""),
    (re.compile(r"^(?:\*\*)+|(?:\*\*)+$|^ ?\\[(\[] ?|\\[)\]] ?$"), ""),  # Markdown, math delimiters
    (re.compile(r"(?<!\\)\$(?=[^0-9.]|$)|^\$(?=[^$]*\$$)|(?<!\\)\$$"), ""),  # $...$; $18 are dollars
    (re.compile(r"^ | ?(?<!\.)[.,;]? ?$"), ""),
    (re.compile(r"(?<![0-9.,])0\{,\}(?=[0-9])"), "0."),  # no thousands
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9])"), "."),  # the decimal comma
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc](frac|binom)(?![A-Za-z])"), r"\\\1"),
    (re.compile(rf"\\(frac|binom)(?![A-Za-z]) ?({_TOKEN})"), r"\\\1{\2}"),
    (re.compile(rf"(\\(?:frac|binom) ?{_GROUP}) ?({_TOKEN})"), r"\1{\2}"),
    (re.compile(rf"(?<![A-Za-z\\{{])(pi|sqrt|infty|{_FUNCTIONS})(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"\\sqrt ?\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt ?(\[[^][]*\])? ?([0-9]+|[A-Za-z](?![A-Za-z]))"), r"\\sqrt\1{\2}"),
    (re.compile(r"\{ ?([^{}]*?) ?\\choose ?([^{}]*?) ?\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<![0-9A-Za-z.)}^/])([0-9]+) ?/ ?([0-9]+)(?= ?\\(?:pi|sqrt))"), r"\\frac{\1}{\2}"),  # 2/3\pi
    (re.compile(rf"{_WRAPPER} ?\{{ ?([A-Z](?:(?:, ?(?:and )?| and | or )[A-Z])+) ?\}}"), r"\1"),  # \text{A, C}
    (re.compile(rf"^{_WRAPPER} ?\{{ ?([+-]?[0-9][0-9.,/]*)( ?[A-Za-z][^{{}}]*)\}}$"), r"\1\\text{\2}"),  # \text{5 cm}
    (re.compile(r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])"), "^"),
    (re.compile(r"([_^]) ?([0-9])(?= )"), r"\1{\2}"),  # \log_2 8
    (re.compile(r"\^ ?- ?([0-9]+|[A-Za-z])"), r"^{-\1}"),  # 10^-3
    (re.compile(r"(?<![0-9A-Za-z.\\_^{])([0-9]+(?:\.[0-9]+)?) ?(?=\( ?(?:\\frac|[0-9]+ ?/))"), r"\1\\cdot "),  # 2(1/2)
    (re.compile(r"\\langle(?![A-Za-z]) ?"), "("),
    (re.compile(r" ?\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r";"), ","),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])|\\\{ ?\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:leqslant|leqq|leq)(?![A-Za-z])|<=|=<"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geqq|geq)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\ne(?![A-Za-z])|!="), r"\\neq "),
    (re.compile(r"\\backslash(?![A-Za-z])|(?<=\}) ?- ?(?=\\\{)"), r"\\setminus "),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10} "),
    (re.compile(r" ?(?<!\\)%| ?\\%| ?(?<=[0-9}]) ?(?i:per ?cent|percents|pct)(?![A-Za-z])"
                rf"| ?(?<=[0-9}}]) ?{_WRAPPER} ?\{{ ?(?:(?i:per ?cents?)|\\?%) ?\}}"), r"\\%"),
    (re.compile(rf" ?(?:,? ?{_WRAPPER} ?\{{ ?,? ?or ?\}}|,? ?(?<![A-Za-z\\])or(?![A-Za-z])|\\vee(?![A-Za-z])) ?"),
     r" \\lor "),
    (re.compile(rf" ?(?:,? ?{_WRAPPER} ?\{{ ?,? ?(?:and|&) ?\}}|,? ?(?<![A-Za-z\\])and(?![A-Za-z])"
                r"|\\wedge(?![A-Za-z])) ?"), r" \\land "),
    (re.compile(rf"{_WRAPPER} ?\{{ ?([^{{}}A-Za-z]*) ?\}}"), r"\1"),  # \text{12}, \mathbf{1/2}
    (re.compile(rf"(?<=[0-9]) ?\^ ?\{{ ?{_WRAPPER} ?\{{ ?(st|nd|rd|th) ?\}} ?\}}"
                rf"|(?<=[0-9]) ?\^? ?{_WRAPPER} ?\{{ ?(st|nd|rd|th) ?\}}"), r"\1\2"),  # 5^{\text{th}}, not 2^{nd}
    (re.compile(rf"(?<=:[0-9]{{2}}) ?(?:{_WRAPPER} ?\{{ ?)?[aA]\.? ?[mM]\.?(?: ?\}})?$"), r"\\text{ am}"),
    (re.compile(rf"(?<=:[0-9]{{2}}) ?(?:{_WRAPPER} ?\{{ ?)?[pP]\.? ?[mM]\.?(?: ?\}})?$"), r"\\text{ pm}"),
    (re.compile(r" +"), " "),
    (re.compile(r"^ | ?(?<!\.)\.? ?$"), ""),
]  # fmt: skip
_CASES = re.compile(r"\\begin ?\{cases\}([^&]*)\\end ?\{cases\}")
_CASE_END = re.compile(r",?\s*\\\\(?:\[[^]]*\])?\s*")  # of a line, where something follows
_REALS = re.compile(rf"(?:{_WRAPPER} ?\{{ ?)?(?i:all real(?:s| numbers))(?: ?\}})?")
_INNER_LETTER = re.compile(r"\\(?:mathrm|mathbf|mathit|boldsymbol|bm|text|rm) ?\{ ?([A-Za-z]) ?\}")
_ANGLE = re.compile(rf"([0-9]+(?:\.[0-9]+)?|\\[a-z]+|(?<![A-Za-z\\])[a-z]) ?(?:{_DEGREE})")
_OUTER = re.compile(r"(?:\\(?:boxed|fbox) ?)?\{")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def tidy(text: str) -> str:
    """Bring spellings of the same answer closer together; what is not understood stays as it is."""
    text = to_ascii(text)
    if cases := _CASES.fullmatch(text.strip(" $")):
        text = ", ".join(part for part in _CASE_END.split(cases[1].strip()) if part)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    if not re.fullmatch(rf"(?:{_WRAPPER} ?\{{[^{{}}]*\}} ?)+", text):  # \mathrm{e}^x is e^x; \text{B} alone is a word
        text = _INNER_LETTER.sub(_letter, text)
    text = spell_powers_of_ten(spell_repeating(spell_double_factorials(text)))
    if _TRIGONOMETRIC.search(text):
        text = _ANGLE.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = _unwrapped(text)
    return r"\mathbb{R}" if _REALS.fullmatch(text) else spell_numerals(text)


def _letter(match: re.Match[str]) -> str:
    """The letter alone; behind a number it is a unit and stays."""
    before = match.string[: match.start()].rstrip()
    return match[0] if before and (before[-1].isdigit() or before[-1] in "})/") else match[1]


def _unwrapped(text: str) -> str:
    r"""Take off braces around everything: ``{7}``, ``\boxed{7}``."""
    while (opening := _OUTER.match(text)) and text.endswith("}") and _closes_last(text[opening.end() - 1 :]):
        text = text[opening.end() : -1].strip()
    return text


def _closes_last(text: str) -> bool:
    return all(depth > 0 for depth in depths(text)[:-1])


def depths(text: str) -> list[int]:
    r"""How many brackets of any kind are open behind each character; ``\{`` counts, and ``[1,2)`` closes."""
    depth, found = 0, []
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        found.append(depth)
    return found
