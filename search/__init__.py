"""Searches that find samplers: spaces, agents and the outer loop.

Each name is imported when it is first used: see `drawstream.samplers.exports`.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.search.agent import SwiftAgent as SwiftAgent
    from drawstream.search.auto import AutoResult as AutoResult
    from drawstream.search.auto import search_auto as search_auto
    from drawstream.search.auto_group import Alone as Alone
    from drawstream.search.auto_group import Child as Child
    from drawstream.search.auto_group import Group as Group
    from drawstream.search.auto_group import InTurn as InTurn
    from drawstream.search.auto_group import Processes as Processes
    from drawstream.search.auto_group import children_of as children_of
    from drawstream.search.confirm import ConfirmationRecord as ConfirmationRecord
    from drawstream.search.objective import Objective as Objective
    from drawstream.search.objective import ObjectiveError as ObjectiveError
    from drawstream.search.objective import Trial as Trial
    from drawstream.search.objective import load_objective as load_objective
    from drawstream.search.paired import PairedTest as PairedTest
    from drawstream.search.paired import paired_test as paired_test
    from drawstream.search.space import Space as Space
    from drawstream.search.study import StudyMismatch as StudyMismatch
    from drawstream.search.study import TrialRecord as TrialRecord
    from drawstream.search.swift import SearchResult as SearchResult
    from drawstream.search.swift import search_swift as search_swift
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
