"""Fields: further members of the samples, such as captions, masks and boxes."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.fields.boxes import Boxes, Placement
    from drawstream.pipeline.fields.columns import (
        ABSENT,
        FieldColumns,
        check_fields,
        field_schema,
        fill_nulls,
        is_field_column,
        read_columns,
    )
    from drawstream.pipeline.fields.dataset import FieldDataset
    from drawstream.pipeline.fields.masks import NO_MASK
    from drawstream.pipeline.fields.request import FieldReader, FieldRequest, FieldValues
    from drawstream.pipeline.fields.smaller import move_field
    from drawstream.pipeline.fields.values import decode_texts, decode_value, encode_value, follow
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
