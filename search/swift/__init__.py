"""Swift Sampler search: candidates, trials, agents and the guard."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.search.swift.agent import Proposals
    from drawstream.search.swift.guard import Guard, runs_of
    from drawstream.search.swift.search import SearchResult, search_swift
    from drawstream.search.swift.space import Space
    from drawstream.search.swift.study import StorageError, Study, StudyMismatch, sqlite_url
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
