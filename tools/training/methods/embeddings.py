"""Embeddings of all training images: what the last linear layer of a model sees of them, for core-sets by distance."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from drawstream.features import HeadInput
from drawstream.tools.training import Setup


@torch.inference_mode()
def embed(setup: Setup, model: nn.Module, /) -> NDArray[np.float32]:
    """One forward pass over the training rows as evaluation sees them; float32 (N, D), the same on every rank.

    Raises:
        ValueError: The model does not end in a linear layer.
    """
    model.eval()
    found = []
    loader = setup.ordered_loader()
    with HeadInput(model) as head:
        for batch in loader:
            inputs, _ = head.of(model(batch.images))
            found.append((batch.ids.cpu().numpy(), inputs.float().cpu().numpy()))
    loader.close()
    parts = [part for rank in setup.ranks.gather(found) for part in rank]
    embeddings = np.empty((len(setup.data), parts[0][1].shape[1]), np.float32)
    for ids, rows in parts:  # the fill of a last batch is the first rows again
        embeddings[ids] = rows
    return embeddings
