"""Scores to probabilities, probabilities to index streams: arrays in, arrays out, NumPy and Numba only."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.samplers.arguments import check_groups, to_vector, whole_number
    from drawstream.samplers.errors import DrawstreamError
    from drawstream.samplers.hashing import (
        count_ones,
        derive_keys,
        digest_array,
        high_product,
        random_bits,
        random_words,
    )
    from drawstream.samplers.parallel import PIECE, cores, map_ahead, map_pieces
    from drawstream.samplers.weights import (
        LARGEST_SUM,
        SMALLEST_SUM,
        TOO_LONG,
        check_single,
        check_values,
        check_weights,
        effective_sample_size,
        integer_widths,
        roundings,
        spread,
        sum_exactly,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
