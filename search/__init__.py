"""Searches that find samplers: spaces, agents and the outer loop."""

from drawstream.search.agent import SwiftAgent
from drawstream.search.auto import AutoResult, search_auto
from drawstream.search.auto_group import Alone, Child, Group, InTurn, Processes, children_of
from drawstream.search.confirm import ConfirmationRecord
from drawstream.search.objective import Objective, ObjectiveError, Trial, load_objective
from drawstream.search.paired import PairedTest, paired_test
from drawstream.search.space import Space
from drawstream.search.study import StudyMismatch, TrialRecord
from drawstream.search.swift import SearchResult, search_swift

__all__ = [
    "Alone",
    "AutoResult",
    "Child",
    "ConfirmationRecord",
    "Group",
    "InTurn",
    "Objective",
    "ObjectiveError",
    "PairedTest",
    "Processes",
    "SearchResult",
    "Space",
    "StudyMismatch",
    "SwiftAgent",
    "Trial",
    "TrialRecord",
    "children_of",
    "load_objective",
    "paired_test",
    "search_auto",
    "search_swift",
]
