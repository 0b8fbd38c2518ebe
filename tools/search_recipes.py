"""Recipes of `drawstream search swift`: options that go together."""

from collections.abc import Mapping
from typing import Any

from typer import Context

# The protocol of the Swift Sampler's paper (its §3.4): candidates one after the other, each fine-tuned for 5 epochs
# over all rows; the best one observed is taken. No designed starts, no floor of the effective sample size, no guard.
# Not stated there, so free: the learning rate of the fine-tuning and kappa.
PAPER: dict[str, Any] = {
    "transform": "cgf",
    "space": "paper10",
    "segments": 4,
    "agent": "gp",
    "trials": 40,
    "batch": 1,
    "starts": False,
    "min_ess": 0.0,
    "fine_tune_epochs": 5.0,
    "confirm_top": 0,
}
RECIPES: dict[str, Mapping[str, Any]] = {"default": {}, "paper": PAPER}


def settled(context: Context, recipe: str, given: Mapping[str, Any], /) -> dict[str, Any]:
    """The command's parameters with those of the recipe in place.

    Args:
        context: Of the command: it knows what the command line said.
        recipe: Of `RECIPES`.
        given: Parameters by name.

    Raises:
        ValueError: No such recipe, or the command line says something else.
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, but got {recipe!r}")
    for name, value in RECIPES[recipe].items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and given[name] != value:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"--recipe {recipe} has {option} {value}, but got {given[name]}: leave one of them out")
    return {**given, **RECIPES[recipe]}
