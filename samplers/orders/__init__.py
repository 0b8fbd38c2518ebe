"""Orders: probabilities to rows as pure functions of seed, epoch and position."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.samplers.orders.capped import Capped
    from drawstream.samplers.orders.guide import build_guide, locate
    from drawstream.samplers.orders.mixed import MixedStream, share_steps
    from drawstream.samplers.orders.order import (
        Draws,
        Order,
        Sequential,
        count_rows,
        entropy,
        histogram,
        ones,
    )
    from drawstream.samplers.orders.schedule import Schedule, is_schedule, write_schedule
    from drawstream.samplers.orders.shuffle import Shuffle, keyed_shuffle
    from drawstream.samplers.orders.stream import IndexStream, RowSampler, require_object
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
