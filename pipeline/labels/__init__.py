"""Labels: their kinds, and what of a user's files becomes one."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.labels.kinds import (
        KINDS,
        TYPES,
        Kind,
        as_kind,
        broken_law,
        kind_of,
        no_labels,
        value_names,
    )
    from drawstream.pipeline.labels.parse import (
        PARSERS,
        EmptySampleError,
        Label,
        RowError,
        marks_array,
        own_number,
        says_other,
        values_array,
    )
    from drawstream.pipeline.labels.relabelling import Relabelled, Relabelling
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
