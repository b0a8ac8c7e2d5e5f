r"""What an equation says something of: ``x``, ``x_1``, ``AB``, ``\angle ABC``, ``\text{Area}``, ``f(2)``, ``(x,y)``.

A sum of symbols is one: competitions ask for ``m+n``. Other formulas are none: ``-x = 3``, ``a-b = 3`` and
``\sqrt{x} = 3`` do not say that what is asked for is 3.
"""

from __future__ import annotations

import re

_MARK = r"(?:hat|bar|vec|tilde|dot|overline|widehat|overrightarrow|overleftrightarrow|mathbf|mathcal|mathrm|boldsymbol)"
_LETTER = (
    r"(?:\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi"
    r"|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell)(?![A-Za-z])|[A-Za-z])"
)
_MARKED = rf"\\{_MARK} ?(?:\{{ ?[A-Za-z]+ ?\}}|[A-Za-z])"
_SYMBOL = rf"(?:{_MARKED}|{_LETTER})(?: ?_ ?(?:\{{[^{{}}]*\}}|[0-9A-Za-z]))?(?:'|\^\\prime)*"
_ONE_NAME = (
    rf"(?:{_SYMBOL}|m?(?: ?\\(?:angle|triangle|measuredangle)(?![A-Za-z]))? ?[A-Z]{{1,4}}"
    r"|(?:[A-Z][a-z]{2,}|area|total|answer|perimeter|volume|probability|sum|product|number|slope)(?: [A-Za-z]+)*"
    r"|(?:\\(?:text|mbox|mathrm|textbf) ?\{[^{}]*\} ?)+[A-Z]{0,4}"
    r"|[A-Z](?:_\{?[A-Za-z0-9]\}?)? ?\([^()=]+\)|[d-hp-wyz](?:'|\^\{-1\})* ?\((?:-?[0-9]+|[a-z](?:,[a-z])*)\))"
)
_SUM = rf"{_SYMBOL}(?: ?\+ ?{_SYMBOL})+"
_SEVERAL_NAMES = rf"{_SYMBOL}(?: ?, ?{_SYMBOL})+"
NAME = re.compile(rf"(?: ?{_ONE_NAME} ?| ?{_SUM} ?| ?\( ?{_SEVERAL_NAMES} ?\) ?| ?{_SEVERAL_NAMES} ?)?")
"""One name, a sum or a tuple of them, or nothing."""
