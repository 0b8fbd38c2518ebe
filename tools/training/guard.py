"""The guard of a finished training: the sampler's model against uniform's, on the held-out images."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from drawstream.pipeline import Loader
from drawstream.search import PairedTest, paired_test
from drawstream.tools.training.models import load_weights
from drawstream.tools.training.setup import Setup


def compare_finished(setup: Setup, control: Path, candidate: Path, /) -> PairedTest:
    """Test if the weights of a finished training beat those of the control on the setup's held-out set.

    Raises:
        ValueError: There is no held-out set, or weights do not fit the model.
    """
    held_out = setup.evaluation_loaders("held_out").get("held_out")
    if held_out is None:
        raise ValueError("two trainings are compared on a held-out catalog: give --held-out")
    try:
        return paired_test(_right(setup, control, held_out), _right(setup, candidate, held_out))
    finally:
        held_out.close()


@torch.inference_mode()
def _right(setup: Setup, weights: Path, held_out: Loader) -> NDArray[np.bool_]:
    """Which images the model has right, bool (n,), in the order of the set."""
    model = setup.build(0)
    load_weights(model, weights)
    model.eval()
    device = next(model.parameters()).device
    right = np.zeros(len(held_out.catalog), bool)
    held_out.set_epoch(0)
    for batch in held_out:
        found = (model(batch.images.to(device)).argmax(1) == batch.labels.to(device)).cpu().numpy()
        real = (batch.weights > 0).cpu().numpy()
        right[batch.ids.cpu().numpy()[real]] = found[real]
    return right
