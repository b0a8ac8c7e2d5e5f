"""An explanation as a picture: where golden attention is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kv_gym.bench.plots import looks_of, new_figure, save_figure
from kv_gym.show.explain.explanation import Cut, Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR = 0.8  # of the room that a group has
CROWDED = 40  # characters of labels side by side
GOLDEN = "golden, from the same cache"


def save_explanation_plot(found: Explanation, path: Path) -> None:
    """Save it to a picture of the kind that the name ends with."""
    save_figure(explanation_figure(found), path)


def explanation_figure(found: Explanation) -> Figure:
    """Bars by token, age and family, and a map of layers and KV heads (of two agents, of their difference)."""
    figure = new_figure(10.0, 6.4)
    panels = figure.subplots(2, 2).flatten()
    colours = {agent: look[0] for agent, look in looks_of(found.agents).items()}
    for axes, key in zip(panels, ("type", "age", "family"), strict=False):
        _draw_bars(axes, found.cut(key), colours)
    panels[0].legend(frameon=False, fontsize=9)
    panels[0].set_ylabel("golden attention lost a step,\n% of a query")
    panels[2].set_ylabel("golden attention lost a step,\n% of a query")
    _draw_heads(figure, panels[3], found)
    figure.suptitle(
        f"{found.env_id}, {found.model}, {found.budget} slots, {len(found.episodes)} episodes", x=0.01, ha="left",
        fontsize=11,
    )  # fmt: skip
    return figure


def _draw_bars(axes: Axes, cut: Cut, colours: Mapping[str, str]) -> None:
    """A bar for each group and agent, with its 95% interval; a grey line says what golden loses there."""
    width = BAR / len(colours)
    for i, (agent, colour) in enumerate(colours.items()):
        x = np.arange(len(cut.groups)) + width * (i - (len(colours) - 1) / 2)
        found = [group.of[agent] for group in cut.groups]
        heights = [100 * one.lost.value if one.lost else 0.0 for one in found]
        ends = [(100 * one.lost.low, 100 * one.lost.high) if one.lost else (0.0, 0.0) for one in found]
        axes.bar(x, heights, width, color=colour, label=agent)
        axes.vlines(x, *zip(*ends, strict=True), color="0.15", linewidth=1.0)
        golden = [100 * one.golden for one in found]
        axes.hlines(golden, x - width / 2, x + width / 2, color="0.6", linewidth=2.0, label=GOLDEN if i == 0 else "")
    labels = [group.label for group in cut.groups]
    turned: dict[str, Any] = {"rotation": 25, "ha": "right"} if sum(map(len, labels)) > CROWDED else {}
    axes.set_xticks(range(len(labels)), labels, fontsize=8, **turned)
    axes.set_title(cut.title, loc="left", fontsize=10)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def head_map(found: Explanation) -> NDArray[np.float64]:
    """Golden attention lost a step, % of a query, [L, H_kv]; of two agents what the first loses more."""
    table = np.zeros((found.n_layers, found.n_kv_heads))
    for group in found.cut("head").groups:
        layer, head = (int(part.split()[-1]) for part in group.label.split(","))
        losses = [100 * one.lost.value if one.lost else 0.0 for one in group.of.values()]
        table[layer, head] = losses[0] - (losses[1] if len(losses) > 1 else 0.0)
    return table


def _draw_heads(figure: Figure, axes: Axes, found: Explanation) -> None:
    table, two = head_map(found), len(found.agents) > 1
    most = float(np.abs(table).max()) or 1.0
    picture = axes.imshow(
        table, cmap="PuOr_r" if two else "viridis", vmin=-most if two else 0, vmax=most, aspect="auto", origin="lower"
    )
    figure.colorbar(picture, ax=axes)
    axes.set_xlabel("KV head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(found.n_kv_heads))
    axes.set_yticks(range(0, found.n_layers, max(1, found.n_layers // 12)))
    what = f"{found.agents[0]} minus {found.agents[1]}" if two else found.agents[0]
    axes.set_title(f"{what}: lost a step, % of a query", loc="left", fontsize=10)
