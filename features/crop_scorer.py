"""The model behind `pipeline.crop_filter`: measures of the crops of a step, from one forward pass.

It stands here and not in `pipeline` because the measures do, and imports point down only; the filter takes any function
of images and labels in its place.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.features.custom import MeasureFunction, hash_source, measure_batch, name_measure
from drawstream.features.grad_norm import HeadInput
from drawstream.features.label_measures import kind_of_batch
from drawstream.features.measures import chosen_measures
from drawstream.features.options import HALF, Amp, autocast, weights_hash


class CropScorer:
    """Scores crops with a frozen copy of a model, in evaluation mode, on the device of the crops.

        >>> scorer = CropScorer(model, measures=sampler.features)
        >>> columns = scorer(batch.images, batch.labels)  # {"loss": float32 (n,), "entropy": …}

    Values are those of `extract` for the same pixels. They are worth as much as the likeness of these pixels to those
    that the sampler's tables were made from: fit it on crops (`extract` with `Scoring(crops=K)`) of the same size.
    """

    def __init__(
        self,
        model: nn.Module,
        /,
        *,
        measures: Sequence[str | MeasureFunction] = ("loss", "entropy"),
        grad_norm: Literal["last", "logit"] = "last",
        head: str | None = None,
        size: tuple[int, int] | None = None,
        amp: Amp = "off",
    ) -> None:
        """Copy the model; later training of it changes nothing here.

        Args:
            model: Gives logits (n, classes).
            measures: Some of `MEASURES`, and functions of your own (see `custom`).
            grad_norm: `last`: over the last linear layer; `logit`: over the logits.
            head: Name of the last linear layer; None: the one whose output the logits are.
            size: Height and width to which crops are brought before they are scored, pixels; None: as they are. Half
                the side costs a quarter, and gives other values: fit the sampler on features of that size.
            amp: Forward passes under autocast; measures are float32 all the same.

        Raises:
            ValueError: An option is none of these, or no linear layer has this name.
        """
        if grad_norm not in ("last", "logit"):
            raise ValueError(f"`grad_norm` must be last or logit for crops of a step, but got {grad_norm!r}")
        if amp not in ("off", *HALF):
            raise ValueError(f"`amp` must be off, bf16 or fp16, but got {amp!r}")
        if size is not None and min(size) < 1:
            raise ValueError(f"`size` must be two positive pixel counts, but got {size}")
        named = tuple(each for each in measures if isinstance(each, str))
        chosen_measures(named, 3)  # unknown names are refused here, the entropy of two classes at the first batch
        self._names = named
        self._functions = {name_measure(each): each for each in measures if not isinstance(each, str)}
        self._last = grad_norm == "last" and "grad_norm" in named
        self._size, self._amp = size, amp
        self._model = deepcopy(model).eval().requires_grad_(False)
        self._device: torch.device | None = None
        self._head = HeadInput(self._model, head)
        if self._last or self._functions:
            self._head.__enter__()  # for good: the copy is ours alone, and its layer is looked for once
        functions = {name: hash_source(function) for name, function in self._functions.items()}
        options = (sorted(named), functions, grad_norm, head, size, amp)
        self.fingerprint = f"{weights_hash(self._model)} {options}"

    def __call__(self, images: Tensor, labels: Tensor, /) -> dict[str, Tensor]:
        """The measures of a batch, each float32 (n,), where the images are.

        Args:
            images: float (n, C, H, W).
            labels: Of a batch, of any kind.

        Raises:
            ValueError: The logits are not (n, classes), the entropy is wanted for two classes, or an own measure gives
                something else than one number per row.
        """
        if images.device != self._device:
            self._model.to(images.device)
            self._device = images.device
        with torch.inference_mode():
            if self._size is not None:
                images = F.interpolate(images, self._size, mode="bilinear", antialias=True, align_corners=False)
            with autocast(self._amp, images.device.type):
                logits: Tensor = self._model(images)
            if logits.ndim != 2:
                raise ValueError(f"the scoring model must give logits (n, classes), but gives {tuple(logits.shape)}")
            chosen_measures(self._names, logits.shape[1], kind_of_batch(labels))
            return measure_batch(logits, labels, self._head, self._names, self._functions, last=self._last)
