"""Weighted sampling inside the data pipeline of image training.

A sampler is a probability over rows, and an index stream is a pure function of (seed, epoch, position); everything else
reads or feeds that function:

    import numpy as np
    from drawstream import ArraySource, Catalog, IndexStream, Loader, Transform, pack

    images, labels = np.zeros((200, 8, 8), np.uint8), np.arange(200) % 10
    pack(ArraySource(images, labels), "data", holdout=50)
    catalog = Catalog.open("data/train")
    weights = np.linspace(0.1, 1.0, len(catalog))
    loader = Loader(catalog, IndexStream(weights, seed=0), transform=Transform.small((8, 8), 1), batch_size=32)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            print(batch.images.shape, batch.labels, batch.ids, batch.weights)

`import drawstream` is quick: each name is imported when it is first used, and PyTorch, DALI, Numba and PyArrow with the
names that need them. Errors with names of their own are `DrawstreamError`, which is a `ValueError`. The guides are in
docs/, the command line is `drawstream --help`.
"""

from typing import TYPE_CHECKING, Any

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.features.crop_scorer import CropScorer as CropScorer
    from drawstream.features.crops import Crops as Crops
    from drawstream.features.custom import call_measure as call_measure
    from drawstream.features.extraction import extract_features as extract_features
    from drawstream.features.options import Scoring as Scoring
    from drawstream.features.shard_scorer import ShardScorer as ShardScorer
    from drawstream.features.suspects.clean import clean_params as clean_params
    from drawstream.features.suspects.clean import clean_probabilities as clean_probabilities
    from drawstream.features.suspects.clean import clean_starts as clean_starts
    from drawstream.features.suspects.find import find_suspects as find_suspects
    from drawstream.features.suspects.learner import CleanSampler as CleanSampler
    from drawstream.features.table.part import write_part as write_part
    from drawstream.features.table.table import FeatureTable as FeatureTable
    from drawstream.features.table.where import rows_where as rows_where
    from drawstream.features.tracker import Tracker as Tracker
    from drawstream.pipeline.batch import Batch as Batch
    from drawstream.pipeline.crop_filter import CropFilter as CropFilter
    from drawstream.pipeline.data_loader import StreamDataLoader as StreamDataLoader
    from drawstream.pipeline.fields.boxes import Boxes as Boxes
    from drawstream.pipeline.fields.dataset import FieldDataset as FieldDataset
    from drawstream.pipeline.images.mixing import RICAP as RICAP
    from drawstream.pipeline.images.mixing import Mixup as Mixup
    from drawstream.pipeline.images.transform import Transform as Transform
    from drawstream.pipeline.loader import Loader as Loader
    from drawstream.pipeline.reading.bad_samples import BadSample as BadSample
    from drawstream.pipeline.reading.bad_samples import BadSampleError as BadSampleError
    from drawstream.pipeline.reading.options import Reading as Reading
    from drawstream.pipeline.replay import read_replay as read_replay
    from drawstream.pipeline.shards.catalog import Catalog as Catalog
    from drawstream.pipeline.shards.catalog_file import AlteredCatalogError as AlteredCatalogError
    from drawstream.pipeline.shards.index import index as index
    from drawstream.pipeline.shards.pack import pack as pack
    from drawstream.pipeline.shards.remote import Remote as Remote
    from drawstream.pipeline.shards.remote import RemoteError as RemoteError
    from drawstream.pipeline.shards.tar import DamagedTarError as DamagedTarError
    from drawstream.pipeline.sources.source import ArraySource as ArraySource
    from drawstream.pipeline.sources.source import Source as Source
    from drawstream.pipeline.sources.source import open_source as open_source
    from drawstream.pipeline.torch_sampler import StreamBatchSampler as StreamBatchSampler
    from drawstream.pipeline.torch_sampler import StreamSampler as StreamSampler
    from drawstream.pipeline.verify import verify as verify
    from drawstream.pipeline.workers.engines import Workers as Workers
    from drawstream.pipeline.workers.pool import WorkerError as WorkerError
    from drawstream.samplers.errors import DrawstreamError as DrawstreamError
    from drawstream.samplers.files.weights_file import map_weights as map_weights
    from drawstream.samplers.methods.balance import Balanced as Balanced
    from drawstream.samplers.methods.balance import Deferred as Deferred
    from drawstream.samplers.methods.balance import Progressive as Progressive
    from drawstream.samplers.methods.balance import balanced as balanced
    from drawstream.samplers.methods.balance import effective_number as effective_number
    from drawstream.samplers.methods.balance import repeat_factors as repeat_factors
    from drawstream.samplers.methods.coreset import forgetting_coreset as forgetting_coreset
    from drawstream.samplers.methods.coreset import highest_coreset as highest_coreset
    from drawstream.samplers.methods.coreset import k_center as k_center
    from drawstream.samplers.methods.coreset import random_coreset as random_coreset
    from drawstream.samplers.methods.dlis import DLIS as DLIS
    from drawstream.samplers.methods.folds import fold_numbers as fold_numbers
    from drawstream.samplers.methods.importance import clip_weights as clip_weights
    from drawstream.samplers.methods.importance import normalize_weights as normalize_weights
    from drawstream.samplers.methods.infobatch import InfoBatch as InfoBatch
    from drawstream.samplers.methods.psgd import CSGD as CSGD
    from drawstream.samplers.methods.psgd import PSGD as PSGD
    from drawstream.samplers.methods.rais import RAIS as RAIS
    from drawstream.samplers.methods.rho import RHOLoss as RHOLoss
    from drawstream.samplers.methods.selection import BatchSelector as BatchSelector
    from drawstream.samplers.methods.selection import OrderedSGD as OrderedSGD
    from drawstream.samplers.methods.selection import Selected as Selected
    from drawstream.samplers.methods.selection import SelectiveBackprop as SelectiveBackprop
    from drawstream.samplers.methods.soft_cap import SoftCap as SoftCap
    from drawstream.samplers.orders.mixed import MixedStream as MixedStream
    from drawstream.samplers.orders.order import Order as Order
    from drawstream.samplers.orders.order import Sequential as Sequential
    from drawstream.samplers.orders.schedule import Schedule as Schedule
    from drawstream.samplers.orders.schedule import write_schedule as write_schedule
    from drawstream.samplers.orders.stream import IndexStream as IndexStream
    from drawstream.samplers.orders.stream import RowSampler as RowSampler
    from drawstream.samplers.swift.fit import SwiftFit as SwiftFit
    from drawstream.samplers.swift.fit import refit as refit
    from drawstream.samplers.swift.fit_blocks import fit_blocks as fit_blocks
    from drawstream.samplers.swift.sampler import DegenerateSampler as DegenerateSampler
    from drawstream.samplers.swift.sampler import SwiftParams as SwiftParams
    from drawstream.samplers.swift.sampler import SwiftSampler as SwiftSampler
    from drawstream.samplers.weights import effective_sample_size as effective_sample_size
    from drawstream.search.auto.group import Child as Child
    from drawstream.search.auto.group import Group as Group
    from drawstream.search.auto.group import InTurn as InTurn
    from drawstream.search.auto.group import OneRank as OneRank
    from drawstream.search.auto.group import Ranks as Ranks
    from drawstream.search.auto.plan import PopulationPlan as PopulationPlan
    from drawstream.search.auto.run import AutoResult as AutoResult
    from drawstream.search.auto.search import search_auto as search_auto
    from drawstream.search.objective import Objective as Objective
    from drawstream.search.objective import ObjectiveError as ObjectiveError
    from drawstream.search.objective import Trial as Trial
    from drawstream.search.objective import load_objective as load_objective
    from drawstream.search.swift.agent import Proposals as Proposals
    from drawstream.search.swift.guard import Guard as Guard
    from drawstream.search.swift.search import SearchResult as SearchResult
    from drawstream.search.swift.search import search_swift as search_swift
    from drawstream.search.swift.study import StorageError as StorageError
    from drawstream.search.swift.study import Study as Study
    from drawstream.search.swift.study import StudyMismatch as StudyMismatch
    from drawstream.tools.runs.hooks import Hook as Hook
    from drawstream.tools.training.methods.plan import LoopParts as LoopParts
    from drawstream.tools.training.methods.plan import TrainingPlan as TrainingPlan
    from drawstream.tools.training.methods.table import Method as Method
    from drawstream.tools.training.methods.table import add_method as add_method

    __version__: str
else:
    _public, __dir__, __all__ = lazy_exports(__name__)

    def __getattr__(name: str) -> Any:
        """Import a public name; the version is that of the installed distribution."""
        if name == "__version__":
            from importlib.metadata import version  # 20 ms that most programs do not need

            return version("drawstream")
        return _public(name)
