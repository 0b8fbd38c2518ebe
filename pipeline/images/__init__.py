"""Pixels: transforms, the DALI graph, augmentation and mixing."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.images.backend import Backend, build_graph, choose_backend, dali_installed
    from drawstream.pipeline.images.draws import draw_flips, draw_windows, key, pixel_windows, to_unit
    from drawstream.pipeline.images.graph import build_pipeline, dali, fn, types
    from drawstream.pipeline.images.graph_spec import Geometry, GraphSpec
    from drawstream.pipeline.images.inputs import Inputs, Rows
    from drawstream.pipeline.images.mixing import RICAP, Mixed, Mixup
    from drawstream.pipeline.images.transform import Transform
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
