"""Metrics by name: how they are called, which kind of labels has them, and which way is better.

top1 top5 balanced   accuracy, per cent: of all rows, with five guesses, mean over the classes
map                  mean over the classes of the average precision, per cent
rmse mae             root of the mean squared error, mean absolute error, in the unit of the values
"""

from drawstream.pipeline.labels import Kind

METRICS: dict[str, str] = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced": "balanced accuracy",
    "map": "mAP",
    "rmse": "RMSE",
    "mae": "MAE",
}
KIND_METRICS: dict[Kind, tuple[str, ...]] = {  # the first is the main one: it decides the best epoch
    "class": ("top1", "top5", "balanced"),
    "multi": ("map",),
    "value": ("rmse", "mae"),
    "none": (),
}


def lower_is_better(metric: str, /) -> bool:
    """Return True for an error, False for an accuracy."""
    return metric in KIND_METRICS["value"]


def unit_of(metric: str, /) -> str:
    """Return what stands behind a number of a metric: per cent, or nothing."""
    return "" if lower_is_better(metric) else " %"


def shown_metric(value: float, metric: str, /) -> str:
    """Return a number of a metric as text: two digits of a per cent, five in all of an error."""
    return f"{value:.5g}" if lower_is_better(metric) else f"{value:.2f} %"
