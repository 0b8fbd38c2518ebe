"""Searches that find samplers: spaces, agents and the outer loop."""

from drawstream.search.agent import SwiftAgent
from drawstream.search.confirm import ConfirmationRecord
from drawstream.search.objective import Objective, ObjectiveError, Trial, load_objective
from drawstream.search.space import Space
from drawstream.search.study import StudyMismatch, TrialRecord
from drawstream.search.swift import SearchResult, search_swift

__all__ = [
    "ConfirmationRecord",
    "Objective",
    "ObjectiveError",
    "SearchResult",
    "Space",
    "StudyMismatch",
    "SwiftAgent",
    "Trial",
    "TrialRecord",
    "load_objective",
    "search_swift",
]
