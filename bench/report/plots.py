"""The parts that every plot shares. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches of 100 pixels, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish_byte_axes(axes: Any, ylabel: str, title: str) -> None:
    """Bytes per image on a logarithmic x axis, a grid, and a legend if something was drawn."""
    axes.set(xscale="log", xlabel="bytes per image", ylabel=ylabel, title=title)
    _plain_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def finish_time_axes(axes: Any, xlabel: str, ylabel: str, title: str) -> None:
    """Two logarithmic axes with plain numbers, milliseconds on y, a grid and a legend."""
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    axes.xaxis.set_major_formatter("{x:g}")
    _plain_numbers(axes.yaxis)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")


def finish_load_axes(axes: Any, xlabel: str, ylabel: str, ticks: Sequence[float]) -> None:
    """Two logarithmic axes with x ticks at the measured loads only."""
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks(ticks, minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _plain_numbers(axis: Any) -> None:
    """10, 20, 50, 100 in place of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def png_of(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()
