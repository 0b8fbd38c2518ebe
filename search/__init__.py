"""Searches that find samplers: spaces, agents and the outer loop."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.search.objective import (
        Objective,
        ObjectiveError,
        Outcome,
        Stage,
        Trial,
        load_objective,
        open_objective,
        usable,
    )
    from drawstream.search.paired import PairedTest, paired_test
    from drawstream.search.tensor_file import load_tensors, save_tensors
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
