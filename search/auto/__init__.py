"""AutoSampling: a population searches the schedule."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.search.auto.group import Child, Group, InTurn, OneRank, Ranks, children_of, of_first
    from drawstream.search.auto.plan import PopulationPlan
    from drawstream.search.auto.run import AutoResult
    from drawstream.search.auto.search import search_auto
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
