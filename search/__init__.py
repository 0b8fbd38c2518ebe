"""Searches that find samplers: spaces, agents and the outer loop.

Each name is imported when it is first used: see `drawstream.samplers.exports`.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.search.auto.group import Child as Child
    from drawstream.search.auto.group import Group as Group
    from drawstream.search.auto.group import InTurn as InTurn
    from drawstream.search.auto.group import OneRank as OneRank
    from drawstream.search.auto.group import Ranks as Ranks
    from drawstream.search.auto.group import children_of as children_of
    from drawstream.search.auto.plan import PopulationPlan as PopulationPlan
    from drawstream.search.auto.run import AutoResult as AutoResult
    from drawstream.search.auto.search import search_auto as search_auto
    from drawstream.search.objective import Objective as Objective
    from drawstream.search.objective import ObjectiveError as ObjectiveError
    from drawstream.search.objective import Trial as Trial
    from drawstream.search.objective import load_objective as load_objective
    from drawstream.search.paired import PairedTest as PairedTest
    from drawstream.search.paired import paired_test as paired_test
    from drawstream.search.swift.agent import Proposals as Proposals
    from drawstream.search.swift.agent import SwiftAgent as SwiftAgent
    from drawstream.search.swift.guard import ConfirmationRecord as ConfirmationRecord
    from drawstream.search.swift.guard import Guard as Guard
    from drawstream.search.swift.search import SearchResult as SearchResult
    from drawstream.search.swift.search import search_swift as search_swift
    from drawstream.search.swift.space import Space as Space
    from drawstream.search.swift.study import Study as Study
    from drawstream.search.swift.study import StudyMismatch as StudyMismatch
    from drawstream.search.swift.study import TrialRecord as TrialRecord
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
