"""Shared setup of the jobs: catalogs, preprocessing, loaders and models, opened and checked once."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from drawstream.features.table import FeatureTable
from drawstream.pipeline import SMALL, Loader, Stream, channel_statistics
from drawstream.pipeline.catalogs import Places
from drawstream.pipeline.images import RICAP, Backend, Mixup, Transform, choose_backend
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog, printable
from drawstream.samplers.orders import IndexStream, Sequential
from drawstream.tools.training.check_model import check_built, slow_on, takes_gray
from drawstream.tools.training.models import build_model
from drawstream.tools.training.ranks import Ranks

Device = Literal["cpu", "gpu"]
MIX_ORDER = ("default", "paper")
AUGMENT = ("none", "standard", "randaugment", "randaugment-bt", "mixup", "ricap")
RANDAUGMENT = (2, 4)  # N and M of budgeted training on small images (Arazo et al. 2021)
EMBEDDING = 128  # outputs of a model of images without labels
EVAL_BATCH = 512  # images; evaluation keeps no activations


@dataclass(frozen=True, slots=True)
class Framing:
    """How training images are framed and coloured, where a data set's recipe says more than the size of its images.

    Attributes:
        size: Height and width of the images in batches, pixels; None: that of small images, 224 of large ones.
        crop: `pad`: the whole image, in training random crops of it padded by 4 zeros (under an augmentation);
            `random`: the random resized crop, the centre in evaluation. None: `pad` up to 64 pixels, else `random`.
        flip: Mirror half of the training images, where they are augmented or large.
        jitter: Ranges of brightness, contrast, saturation and hue of training images, see `Transform`.
    """

    size: int | None = None
    crop: Literal["pad", "random"] | None = None
    flip: bool = True
    jitter: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"`size >= 1` must hold, but got {self.size}")
        if len(self.jitter) not in (0, 4):
            raise ValueError(
                f"`jitter` must be 4 ranges (brightness, contrast, saturation, hue), but got {self.jitter}"
            )

    def of_training(self, transform: Transform, /) -> Transform:
        """Return a training transform with what is asked for."""
        jitter = (self.jitter[0], self.jitter[1], self.jitter[2], self.jitter[3]) if self.jitter else None
        return replace(transform, flip=transform.flip and self.flip, jitter=jitter)


@dataclass(frozen=True)
class Setup:
    """Data and model of a job.

    Attributes:
        catalog: Folder of the training catalog, or its URL; or those of several.
        model: Name, see `build_model`.
        held_out: Catalog that chooses (best epoch, best sampler); None if there is none.
        test: Catalog that reports; never chooses.
        more: Further catalogs that a model is evaluated on, by name.
        opened: The training catalog, where it is open already.
        classes: Several training catalogs have the same classes, or these are merged by name (`union`).
        global_batch: Images per training step, over all ranks.
        augment: Of training images. `standard`: random crops of the image padded by 4 zeros, and flips (large images
            have random resized crops and flips under `none` too); `randaugment`, `randaugment-bt`, `mixup` and `ricap`
            come on top.
        mix_order: Of `mixup` and `ricap`: `default` mixes the rows that a selector has chosen, and the first patch of
            RICAP is the row's own; `paper` mixes before a selector scores (the larger share of mixup is then the row's)
            and permutes all patches, as the code of Arazo et al.
        framing: Size, crops, flips and colours of the images.
        device: `cpu` or `gpu`.
        backend: `dali` or `pillow`, see `Loader`; None: what is installed.
        ranks: The processes that share each step.
        reading: Of the training loader; what chooses and reports is read strictly.
        eval_batch: Images of a rank's batch in evaluation, which keeps no activations.
        channels: Of the images in batches, 1 or 3; None: 3 where one of the sets has colour, or where the model takes
            colour only, else 1. Gray images become RGB with three equal channels.
    """

    catalog: Places
    model: str
    held_out: Path | str | None = None
    test: Path | str | None = None
    global_batch: int = 128
    augment: str = "none"
    mix_order: str = "default"
    framing: Framing = field(default_factory=Framing)
    device: Device = "cpu"
    backend: Backend | None = None
    ranks: Ranks = field(default_factory=Ranks)
    reading: Reading = field(default_factory=Reading)
    eval_batch: int = EVAL_BATCH
    channels: int | None = None
    more: Mapping[str, Path | str] = field(default_factory=dict)
    classes: Literal["same", "union"] = "same"
    opened: Catalog | None = field(default=None, repr=False, compare=False)
    _checked: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise ValueError(f"`global_batch >= 1` must hold, but got {self.global_batch}")
        if self.global_batch % self.ranks.world_size:
            raise ValueError(
                f"`global_batch` must be a multiple of the {self.ranks.world_size} ranks, but got {self.global_batch}"
            )
        if self.augment not in AUGMENT:
            raise ValueError(f"`augment` must be one of {', '.join(AUGMENT)}, but got {self.augment!r}")
        if self.mix_order not in MIX_ORDER or (self.mix_order == "paper" and self.augment not in ("mixup", "ricap")):
            raise ValueError(
                f"`mix_order` must be default, or paper with the augmentation mixup or ricap, but got "
                f"{self.mix_order!r} with {self.augment!r}"
            )
        if self.channels not in (None, 1, 3):
            raise ValueError(f"`channels` must be 1 or 3, but got {self.channels}")
        object.__setattr__(self, "backend", choose_backend(self.backend, tell=self.ranks.writes))
        if self.device == "gpu" and not torch.cuda.is_available():
            raise ValueError("`--device gpu` needs a CUDA device, and torch sees none: use `--device cpu`")

    @cached_property
    def data(self) -> Catalog:
        """The training catalog.

        Raises:
            ValueError: It cannot be opened.
        """
        if self.opened is not None:
            return self.opened
        return Catalog.open(self.catalog, classes=self.classes)

    @property
    def judges(self) -> dict[str, Path | str]:
        """Folders or URLs of `held_out`, `test` and `more`, as far as they are given."""
        given = {"held_out": self.held_out, "test": self.test, **self.more}
        return {name: path for name, path in given.items() if path is not None}

    @cached_property
    def evaluated(self) -> dict[str, Catalog]:
        """The catalogs of `judges`."""
        catalogs = {name: Catalog.open(path) for name, path in self.judges.items()}
        for name, catalog in catalogs.items():
            catalog.require_labels("evaluation")
            fewer = set(catalog.classes) < set(self.data.classes) and catalog.label_kind in ("class", "multi")
            if self.classes == "union" and fewer:
                catalogs[name] = catalog.with_classes(self.data.classes)
        return catalogs

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for each image: one a class or value; of images without labels `EMBEDDING`."""
        return self.data.num_classes or EMBEDDING

    @cached_property
    def input_channels(self) -> int:
        """Channels of the images in batches, see `channels`; a line on stderr says where gray becomes RGB unasked.

        Raises:
            ValueError: Colour images were to be loaded as gray.
        """
        catalogs = [self.data, *self.evaluated.values()]
        colour = [each for each in catalogs if each.channels == 3]
        if self.channels is not None:
            if colour and self.channels == 1:
                raise ValueError(f"{colour[0].path} has colour images, which are not made gray: --channels 3")
            return self.channels
        gray = [str(each.path) for each in catalogs if each.channels == 1]
        if colour and gray:
            self._note(f"gray images are loaded as RGB ({', '.join(gray)}), as {colour[0].path} has colour")
        elif gray and not takes_gray(self.model, num_classes=self.outputs, size=self._size):
            self._note(f"gray images are loaded as RGB, as model {self.model!r} takes 3 channels")
            return 3
        return 3 if colour else 1

    @property
    def _largest(self) -> tuple[int, int]:
        return int(self.data.height.max()), int(self.data.width.max())

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the images in batches."""
        if self.framing.size is not None:
            return self.framing.size, self.framing.size
        whole = max(self._largest) <= SMALL or self.framing.crop == "pad"
        return self._largest if whole else Transform.large(train=False).size

    def _note(self, text: str) -> None:
        if self.ranks.writes:
            print(f"note: {printable(text)}", file=sys.stderr, flush=True)

    @cached_property
    def transforms(self) -> tuple[Transform, Transform]:
        """For training and for evaluation; small images are normalised with the training set's mean and deviation."""
        channels, size, framing = self.input_channels, self._size, self.framing
        if (framing.crop or ("pad" if max(size) <= SMALL else "random")) == "random":
            law: dict[str, Any] = {"size": size[0], "channels": channels}
            training, evaluation = (Transform.large(train=train, **law) for train in (True, False))
        else:
            found = channel_statistics(self.data, size=size, backend=self.backend, reading=self.reading)
            mean, std = (values * (channels // len(values)) for values in found)
            evaluation = Transform(size, mean, std)
            training = evaluation if self.augment == "none" else replace(evaluation, crop="pad", flip=True)
        if self.augment in ("randaugment", "randaugment-bt"):
            suite: Literal["bt"] | None = "bt" if self.augment == "randaugment-bt" else None
            training = replace(training, randaugment=RANDAUGMENT, suite=suite)
        return framing.of_training(training), evaluation

    def mix(self, seed: int, *, selected: bool = False) -> Mixup | RICAP | None:
        """Return the mixer of a training batch's images, for a selector that scores them or not; None without one."""
        paper: Literal[True] | None = True if self.mix_order == "paper" else None
        match self.augment:
            case "mixup":
                return Mixup(seed=seed, larger=paper if selected else None)
            case "ricap":
                return RICAP(seed=seed, permuted=paper)
        return None

    def training_loader(self, factor: int = 1, *, rows: FeatureTable | None = None) -> Loader:
        """Over the samples, or the crops of a table, uniformly permuted until its stream is replaced.

        A batch is `factor` times as large.
        """
        share = self.global_batch // self.ranks.world_size * factor
        stream = IndexStream(len(self.data) if rows is None else len(rows))
        return self._loader(self.data, stream, self.transforms[0], share, reading=self.reading, rows=rows)

    def ordered_loader(self) -> Loader:
        """Over the samples in file order, as evaluation sees them."""
        stream = Sequential(0, len(self.data))
        return self._loader(self.data, stream, self.transforms[1], self.eval_batch, reading=self.reading)

    def evaluation_loaders(self, *names: str) -> dict[str, Loader]:
        """Loaders in file order over the catalogs of `judges`, or of some of them by name.

        Raises:
            ValueError: A set has other classes than the training set, or is the training set.
        """
        loaders = {}
        for name, catalog in self.evaluated.items():
            if names and name not in names:
                continue
            if catalog.label_kind != self.data.label_kind:
                raise ValueError(
                    f"{catalog.path} has labels of kind {catalog.label_kind}, but {self.data.path} of "
                    f"{self.data.label_kind}: pack both with the same --label-kind"
                )
            if catalog.classes != self.data.classes:
                raise ValueError(
                    f"{catalog.path} has {catalog.num_classes} classes ({', '.join(catalog.classes[:3])}, …), but "
                    f"{self.data.path} has {self.data.num_classes} ({', '.join(self.data.classes[:3])}, …): "
                    "pack both from the same classes"
                )
            if catalog.fingerprint in (self.data.fingerprint, *(each.fingerprint for each in self.data.members)):
                whole = catalog.fingerprint == self.data.fingerprint
                law = "is the training set itself" if whole else "is the training set in part"
                raise ValueError(f"{catalog.path} {law}: give rows that are not trained on")
            loaders[name] = self._loader(catalog, Sequential(0, len(catalog)), self.transforms[1], self.eval_batch)
        return loaders

    def _loader(self, catalog: Catalog, stream: Stream, transform: Transform, batch_size: int, **more: Any) -> Loader:
        device = "cpu" if self.device == "cpu" else f"gpu:{self.ranks.local}"
        more |= {"rank": self.ranks.rank, "world_size": self.ranks.world_size, "device": device}
        more |= {"backend": self.backend}
        return Loader(catalog, stream, transform=transform, batch_size=batch_size, **more)

    def build(self, seed: int, *, trained: bool = True) -> nn.Module:
        """A freshly initialised model on the device; the first one is tried with images of the size and channels.

        Args:
            seed: Of the initialisation.
            trained: Whether it will be trained; if not, only its evaluation mode is tried.

        Raises:
            ValueError: As `build_model`, or the model does not fit the data.
        """
        classes, channels, size = self.outputs, self.input_channels, self.transforms[1].size
        model = build_model(self.model, num_classes=classes, channels=channels, size=size, seed=seed)
        model = model.to("cuda" if self.device == "gpu" else "cpu")
        if not self._checked:
            check_built(model, self.model, num_classes=classes, channels=channels, size=size, trained=trained)
            if note := slow_on(self.model, size):
                self._note(note)
            self._checked.append(self.model)
        return model


def crop_rows(table: Path | None, setup: Setup, /) -> FeatureTable | None:
    """The feature table of a folder where its rows are crops or some of the images, which a loader must be told."""
    opened = None if table is None else FeatureTable.open(table, catalog=setup.data)
    if opened is None or opened.windows is not None:
        return opened
    return None if np.array_equal(opened.sample_id, np.arange(len(setup.data))) else opened
