"""Charts of a schedule search: the rows drawn in each stage, and the worth of the rewards."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.experiments import Figure, Style, axes, line, trace
from drawstream.tools.training.methods import BLUE, GRAY, GREEN, ORANGE

Floats = NDArray[np.float64]
STAGE_STYLES = ((GRAY, "dot"), (GREEN, "dash"), (BLUE, "solid"))


def segments_figure(parts: Floats, names: Sequence[str], /) -> Figure:
    """Return Fig. 2 of the paper: counts of the segments in each stage, over their mean; the last stage rises.

    Args:
        parts: float64 (stages, segments), as `segment_counts` gives them.
        names: Names of the stages.
    """
    places = [round(100 * (i + 0.5) / parts.shape[1], 2) for i in range(parts.shape[1])]
    data = []
    for part, name, (colour, dash) in zip(parts, names, STAGE_STYLES[-len(names) :], strict=True):
        hover, width = f"{name}, rows up to rank %{{x:.0f}} %: %{{y:.3f}}", 2.5 if dash == "solid" else 1.8
        data.append(line(places, _values(part), name, hover=hover, color=colour, dash=dash, width=width))
    layout = axes("Rows ranked by their count in the last stage (%)", "Count in the stage over its mean")
    layout["xaxis"]["range"] = [0, 100]
    return {"data": data, "layout": _from_zero(layout)}


def loss_figure(loss: NDArray[np.float32], counts: NDArray[np.int64], wrong: NDArray[np.bool_] | None, /) -> Figure:
    """Return Fig. 4 of the paper as a cloud: count of some rows against their loss, those with a wrong label apart."""
    groups = [("Rows", np.ones(loss.size, dtype=bool), Style(BLUE))]
    if wrong is not None and wrong.any():
        wrongly = Style(ORANGE, "diamond-open")
        groups = [("Right label", ~wrong, Style(BLUE)), ("Wrong label", wrong, wrongly)]
    data = []
    for name, here, style in groups:
        points = list(zip(loss[here].round(4).tolist(), counts[here].tolist(), strict=True))
        data.append(trace(name, points, style, hover=f"{name}: loss %{{x:.3f}}, drawn %{{y}} times"))
        data[-1]["marker"] |= {"size": 6, "opacity": 0.65}
    return {
        "data": data,
        "layout": _from_zero(axes("Loss at the end of the stage (nats)", "Times drawn in the stage")),
    }


def rewards_figure(rewards: Floats, ends: Floats, name: str, /) -> Figure:
    """Return the reward over the run: the chosen child, and the band from the worst to the best.

    Args:
        rewards: float64 (intervals, children); NaN if a child diverged.
        ends: Epochs done at the end of each interval, float64 (intervals,).
        name: Name of the reward, with its unit.
    """
    x = ends.round(3).tolist()
    worst, middle, best = (_values(pick(rewards, 1)) for pick in (np.nanmin, np.nanmean, np.nanmax))
    low = line(x, worst, "Worst child", color=GRAY, width=0) | {"showlegend": False, "hoverinfo": "skip"}
    high = line(x, best, "From the worst to the best child", color=GRAY, width=0) | {"hoverinfo": "skip"}
    high |= {"fill": "tonexty", "fillcolor": "rgba(125,133,144,0.35)"}
    hover = "epoch %{{x:.2f}}, {}: %{{y:.3f}}".format
    mean = line(x, middle, "Mean of the children", hover=hover("mean"), color=ORANGE, dash="dash", width=1.8)
    chosen = line(x, best, "Chosen child", hover=hover("chosen child"), color=BLUE, width=1.8)
    return {"data": [low, high, mean, chosen], "layout": axes("Epoch", name)}


def spread_figure(rewards: Floats, ends: Floats, binomial: Floats | None, unit: str, /) -> Figure:
    """Return the standard deviation between the children of each interval, beside the noise of one reward.

    Args:
        rewards: float64 (intervals, children >= 2).
        ends: Epochs done at the end of each interval, float64 (intervals,).
        binomial: Standard deviation of a reward over evaluation sets of the same size, float64 (intervals,); None if
            the reward is no accuracy.
        unit: Unit of the reward.
    """
    x, hover = ends.round(3).tolist(), f"epoch %{{x:.2f}}: %{{y:.3f}} {unit} "
    points = list(zip(x, _values(rewards.std(1, ddof=1)), strict=True))
    data = [trace("Between the children", points, Style(BLUE), hover=f"{hover}between the children")]
    data[0]["marker"]["size"] = 6
    if binomial is not None:
        style = {"color": ORANGE, "dash": "dash", "width": 2}
        data.append(line(x, _values(binomial), "Binomial noise of one reward", hover=f"{hover}of noise", **style))
    return {"data": data, "layout": _from_zero(axes("Epoch", f"Standard deviation ({unit})"))}


def _values(y: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 5) for value in y.tolist()]


def _from_zero(layout: Figure) -> Figure:
    layout["yaxis"]["rangemode"] = "tozero"
    return layout
