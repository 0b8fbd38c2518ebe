"""What the jobs share: catalogs, preprocessing, loaders and models, opened and checked once."""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from drawstream.features import FeatureTable
from drawstream.pipeline import RICAP, Catalog, Loader, Mixup, Transform
from drawstream.pipeline.bad import OnBad
from drawstream.pipeline.loader import SMALL
from drawstream.pipeline.place import Stream
from drawstream.pipeline.read import Checksum
from drawstream.pipeline.statistics import channel_statistics
from drawstream.samplers import IndexStream, Sequential
from drawstream.tools.training.models import build_model
from drawstream.tools.training.ranks import Ranks

Device = Literal["cpu", "gpu"]
AUGMENT = ("none", "standard", "randaugment", "mixup", "ricap")
RANDAUGMENT = (2, 4)  # N and M of budgeted training on small images (Arazo et al. 2021)
EVAL_BATCH = 512  # images; evaluation keeps no activations


@dataclass(frozen=True, slots=True)
class Reading:
    """How the training loader treats what it reads; the keywords of `Loader` of the same names."""

    checksum: Checksum = "always"
    on_bad: OnBad = "raise"
    max_bad: int = 100
    quarantine: Path | None = None


@dataclass(frozen=True)
class Setup:
    """Data and model of a job.

    Attributes:
        catalog: Folder of the training catalog, or its URL.
        model: Name, see `build_model`.
        held_out: Catalog that chooses (best epoch, best sampler); None if there is none.
        test: Catalog that reports; never chooses.
        batch_size: Images per training step, over all ranks.
        augment: Of training images. `standard`: random crops of the image padded by 4 zeros, and flips (large images
            have random resized crops and flips under `none` too); `randaugment`, `mixup` and `ricap` come on top.
        device: `cpu` or `gpu`.
        ranks: The processes that share each step.
        reading: Of the training loader; what chooses and reports is read strictly.
    """

    catalog: Path | str
    model: str
    held_out: Path | str | None = None
    test: Path | str | None = None
    batch_size: int = 128
    augment: str = "none"
    device: Device = "cpu"
    ranks: Ranks = field(default_factory=Ranks)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"`batch_size >= 1` must hold, but got {self.batch_size}")
        if self.batch_size % self.ranks.world_size:
            raise ValueError(
                f"`batch_size` must be a multiple of the ranks, but got {self.batch_size} for {self.ranks.world_size}"
            )
        if self.augment not in AUGMENT:
            raise ValueError(f"`augment` must be one of {', '.join(AUGMENT)}, but got {self.augment!r}")
        if self.device == "gpu" and not torch.cuda.is_available():
            raise ValueError("`--device gpu` needs a CUDA device, and torch sees none: use `--device cpu`")

    @cached_property
    def data(self) -> Catalog:
        """The training catalog.

        Raises:
            ValueError: It cannot be opened, or has no labels.
        """
        catalog = Catalog.open(self.catalog)
        catalog.require_labels("a model's loss")
        return catalog

    @cached_property
    def transforms(self) -> tuple[Transform, Transform]:
        """For training and for evaluation; small images are normalised with the training set's mean and deviation."""
        height, width = int(self.data.height.max()), int(self.data.width.max())
        if max(height, width) > SMALL:
            return self._strengthened(Transform.large(train=True)), Transform.large(train=False)
        mean, std = channel_statistics(self.data, size=(height, width), **asdict(self.reading))
        plain = Transform((height, width), mean, std)
        standard = plain if self.augment == "none" else replace(plain, crop="pad", flip=True)
        return self._strengthened(standard), plain

    def _strengthened(self, standard: Transform) -> Transform:
        return replace(standard, randaugment=RANDAUGMENT) if self.augment == "randaugment" else standard

    def mix(self, seed: int) -> Mixup | RICAP | None:
        """What mixes the images of a training batch, if anything."""
        match self.augment:
            case "mixup":
                return Mixup(seed=seed)
            case "ricap":
                return RICAP(seed=seed)
        return None

    def training_loader(self, factor: int = 1, *, rows: FeatureTable | None = None) -> Loader:
        """Over the samples, or the crops of a table, uniformly permuted until its stream is replaced.

        A batch is `factor` times as large.
        """
        share = self.batch_size // self.ranks.world_size * factor
        stream = IndexStream(len(self.data) if rows is None else len(rows))
        return self._loader(self.data, stream, self.transforms[0], share, self.reading, rows)

    def ordered_loader(self) -> Loader:
        """Over the samples in file order, as evaluation sees them."""
        return self._loader(self.data, Sequential(0, len(self.data)), self.transforms[1], EVAL_BATCH, self.reading)

    def evaluation_loaders(self) -> dict[str, Loader]:
        """Loaders in file order over what there is of `held_out` and `test`.

        Raises:
            ValueError: A set has other classes than the training set, or is the training set.
        """
        given = {"held_out": self.held_out, "test": self.test}
        loaders = {}
        for name, path in given.items():
            if path is None:
                continue
            catalog = Catalog.open(path)
            if catalog.classes != self.data.classes:
                raise ValueError(
                    f"{catalog.path} has {catalog.num_classes} classes ({', '.join(catalog.classes[:3])}, …), but "
                    f"{self.data.path} has {self.data.num_classes} ({', '.join(self.data.classes[:3])}, …): "
                    "pack both from the same classes"
                )
            if catalog.fingerprint == self.data.fingerprint:
                raise ValueError(f"{catalog.path} is the training set itself: give rows that are not trained on")
            loaders[name] = self._loader(catalog, Sequential(0, len(catalog)), self.transforms[1], EVAL_BATCH)
        return loaders

    def _loader(
        self,
        catalog: Catalog,
        stream: Stream,
        transform: Transform,
        batch_size: int,
        reading: Reading = Reading(),
        rows: FeatureTable | None = None,
    ) -> Loader:
        ranks = self.ranks
        return Loader(
            catalog,
            stream,
            rows=rows,
            transform=transform,
            batch_size=batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            device=self.device,
            device_id=ranks.local,
            **asdict(reading),
        )

    def build(self, seed: int) -> nn.Module:
        """A freshly initialised model on the device."""
        model = build_model(
            self.model,
            num_classes=self.data.num_classes,
            channels=self.data.channels,
            size=self.transforms[1].size,
            seed=seed,
        )
        return model.to("cuda" if self.device == "gpu" else "cpu")


def crop_rows(table: Path | None, setup: Setup, /) -> FeatureTable | None:
    """The feature table of a folder where its rows are crops, which a loader must be told; else None."""
    opened = None if table is None else FeatureTable.open(table, catalog=setup.data)
    return None if opened is None or opened.windows is None else opened
