"""The command line."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.cli import search
    from drawstream.tools.cli.grids import (
        AutoGrid,
        BudgetGrid,
        CatalogOptions,
        LanguageGrid,
        NoiseGrid,
        NovelGrid,
        RecipeGrid,
        SuspectsGrid,
        TailGrid,
        TransferGrid,
        level_name,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
