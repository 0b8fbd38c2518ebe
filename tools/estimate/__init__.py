"""`--dry-run`: the checks of a long job, and a simple estimate of its time."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.estimate.demo import estimate_demo, estimate_runs, packed_plan
    from drawstream.tools.estimate.probe import Probe, scratch_folder
    from drawstream.tools.estimate.search import estimate_auto, estimate_swift
    from drawstream.tools.estimate.stages import Estimate, Stage, tell
    from drawstream.tools.estimate.training import estimate_extraction, estimate_folds, estimate_training
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
