"""The steps of the main job as functions: train, score, search, search schedules.

Each writes one folder, goes on where a killed run stopped, and gives back the finished record when it is there already.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.jobs.auto import FILES, AutoJob, auto_job
    from drawstream.tools.jobs.features import Extracted, FeaturesJob, features_job, prepare_extraction
    from drawstream.tools.jobs.folds import FoldsJob, folds_job
    from drawstream.tools.jobs.pack import finished_before, label_noise, open_given, tail_line, tell_source
    from drawstream.tools.jobs.search import SearchJob, prepare_search, search_job
    from drawstream.tools.jobs.train import TrainingJob, history_of, prepare_training, result_of, train_job
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
