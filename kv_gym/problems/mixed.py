"""Problems of several sources in turn: one environment for an agent that should do well in every domain."""

from __future__ import annotations

from collections.abc import Sequence

from kv_gym.problems.base import Problem, ProblemSource


class MixedSource:
    """Problem `index` is problem ``index // n`` of source ``index % n``, under its own id and family.

    Args:
        sources: At least one.
    """

    def __init__(self, sources: Sequence[ProblemSource]) -> None:
        self.sources = sources
        self.name = "+".join(source.name for source in sources)

    @property
    def families(self) -> tuple[str, ...]:
        """Those of all sources."""
        return tuple(family for source in self.sources for family in source.families)

    def size(self, split: str) -> int | None:
        """Problems until the smallest source has no more; None is without end."""
        sizes = [size for source in self.sources if (size := source.size(split)) is not None]
        return len(self.sources) * min(sizes) if sizes else None

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`; the same arguments always give the same problem."""
        place, turn = divmod(index, len(self.sources))
        return self.sources[turn].problem(split, seed, place)
