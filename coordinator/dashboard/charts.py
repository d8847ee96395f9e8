"""Pictures of figures, as SVG by Matplotlib: drawn here, so that a page needs no script for them.

Every picture stands beside a table with the same values; the text in it is text. A picture is for
a light or a dark page, and the page chooses by what the reader's system asks.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Scheme = Literal["light", "dark"]
_COLOURS: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1a222c", "quiet": "#4a5563", "line": "#d5dae1", "mark": "#0b4f8f"},
    "dark": {"ink": "#e6eaef", "quiet": "#b0bac5", "line": "#36414d", "mark": "#8ebcf2"},
}
# Matplotlib's state is one for a process.
_drawing = threading.Lock()


@dataclass(frozen=True)
class Bar:
    """A value with its name and, if it is noised, its noise's standard error."""

    name: str
    value: float
    error: float | None = None


@lru_cache(maxsize=256)
def bars(title: str, unit: str, values: tuple[Bar, ...], scheme: Scheme) -> bytes:
    """Horizontal bars, one below the other. If a value is noised, each is a point instead, with a
    whisker of two standard errors to either side: a bar would hide the small differences."""

    def draw(axes: Any, colours: Mapping[str, str]) -> None:
        places = range(len(values))
        if all(one.error is None for one in values):
            axes.barh(places, [one.value for one in values], color=colours["mark"], height=0.55)
        else:
            axes.errorbar(
                [one.value for one in values],
                places,
                xerr=[2 * (one.error or 0.0) for one in values],
                fmt="o",
                markersize=7,
                color=colours["mark"],
                ecolor=colours["ink"],
                capsize=4,
            )
            axes.set_ylim(-0.6, len(values) - 0.4)
        axes.set_yticks(places, [one.name for one in values])
        axes.invert_yaxis()
        axes.set_xlabel(unit)

    return _svg(title, (7.5, 0.9 + 0.42 * max(1, len(values))), draw, scheme)


@lru_cache(maxsize=256)
def steps(
    title: str, unit: str, points: tuple[tuple[float, float], ...], limit: float, scheme: Scheme
) -> bytes:
    """A line of steps over days since the first point, and the limit that it must stay below."""

    def draw(axes: Any, colours: Mapping[str, str]) -> None:
        days, values = zip(*points, strict=True) if points else ((0.0,), (0.0,))
        axes.step(days, values, where="post", color=colours["mark"], linewidth=2)
        axes.axhline(limit, color=colours["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, max(limit, *values) * 1.08)
        axes.set_xlabel(unit)

    return _svg(title, (7.5, 2.4), draw, scheme)


def _svg(title: str, size: tuple[float, float], draw: Any, scheme: Scheme) -> bytes:
    # Imported by the first picture: the service itself starts and rests without it.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    colours = _COLOURS[scheme]
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "fedtags",
        "font.family": ["sans-serif"],
        "font.size": 10,
        "text.color": colours["ink"],
        "axes.labelcolor": colours["quiet"],
        "axes.edgecolor": colours["line"],
        "xtick.color": colours["quiet"],
        "ytick.color": colours["quiet"],
    }
    with _drawing, rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.grid(axis="x", color=colours["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10)
        draw(axes, colours)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
