"""What speaks against a submission."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Why a submission is refused.

    Attributes:
        code: ``level.reason``; does not change between versions.
        detail: What came, and what is right.
    """

    code: str
    detail: str
