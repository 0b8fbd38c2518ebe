"""One image: its header, orientation, and what DALI says of it."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.decoding import dali_image
    from drawstream.pipeline.decoding.dali_image import parse, parser, plain
    from drawstream.pipeline.decoding.exif import (
        ORIENTATION,
        RULES,
        SIDEWAYS,
        UPRIGHT,
        check_rule,
        flips,
        orientation,
        png_chunks,
    )
    from drawstream.pipeline.decoding.image import (
        EXTENSIONS,
        GRAY_MODES,
        MOST_PIXELS,
        ImageInfo,
        decode,
        encode,
        judge,
        probe,
    )
    from drawstream.pipeline.decoding.pillow_image import decode_levels, decode_window, parse_header
    from drawstream.pipeline.decoding.quiet import no_warnings
    from drawstream.pipeline.decoding.smaller import Largest, shrink
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
