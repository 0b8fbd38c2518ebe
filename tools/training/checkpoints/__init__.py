"""Checkpoints of a training: its parts over all ranks, the file, and when it is written."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.training.checkpoints.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
    from drawstream.tools.training.checkpoints.parts import (
        AsTensors,
        BufferState,
        LearnerOfAll,
        LoaderPlace,
        OfEachRank,
        RandomState,
        Stateful,
        TrackerOfAll,
        adds_up,
    )
    from drawstream.tools.training.checkpoints.requests import SAVE, SaveRequests
    from drawstream.tools.training.checkpoints.saving import AFTER_EPOCHS, Saving, Stopped
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
