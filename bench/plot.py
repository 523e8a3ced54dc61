# SPDX-License-Identifier: Apache-2.0
"""The plot of a run: by how much each figure is better than it must be."""

from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure

_GOOD, _BAD = "#2a7f62", "#b3412e"


def write_plot(path: Path, figures: Sequence[Figure]) -> bool:
    """Draw ``figures`` that have a limit as an image file; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    shown = [figure for figure in figures if figure.value and figure.must][::-1]
    canvas, axes = plt.subplots(figsize=(11, 1 + 0.32 * len(shown)), layout="constrained")
    for place, figure in enumerate(shown):
        main, low, high = _margins(figure)
        axes.plot([low, high], [place, place], color="#999999", linewidth=1)
        axes.plot([main], [place], "o", color=_GOOD if main >= 1 else _BAD)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_yticks(range(len(shown)), [_label(figure) for figure in shown], fontsize=8)
    axes.set_xlabel("times better than it must be (right of the line: good enough)")
    canvas.savefig(path)
    plt.close(canvas)
    return True


def _label(figure: Figure) -> str:
    return (
        f"{figure.what} vs {figure.against} ({figure.must})"
        if figure.against
        else f"{figure.what} ({figure.must})"
    )


def _margins(figure: Figure) -> tuple[float, float, float]:
    """Give main, worst and best as multiples of what is asked, more being better."""
    assert figure.value is not None  # only figures that were measured
    assert figure.must is not None  # and of which something is asked
    value, limit = figure.value, figure.must.limit
    if figure.must.at_least:
        return value.main / limit, value.low / limit, value.high / limit
    return limit / value.main, limit / value.high, limit / value.low
