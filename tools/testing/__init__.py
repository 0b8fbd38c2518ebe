"""Checks that a stream, a row sampler or a batch selector of your own keeps the laws.

    from drawstream.testing import check_row_sampler


    def test_mine():
        check_row_sampler(lambda: Mine(rows=100))

A broken law is an `AssertionError` that names the law, the place and both values. Neither pytest nor PyTorch is needed;
where PyTorch is installed, parts are given tensors, as in a training.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.testing.batch_selectors import check_batch_selector as check_batch_selector
    from drawstream.testing.row_samplers import check_row_sampler as check_row_sampler
    from drawstream.testing.streams import check_stream as check_stream
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
