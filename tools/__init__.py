"""The command line, the reference training loop, the demo and the report."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.demo import (
        PLANS,
        DemoPlan,
        pack_plan,
        run_demo,
        search_of,
        setup_of,
        source_and_test,
        start_plan,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
