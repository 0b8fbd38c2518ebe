"""Files of users and ours: whole writes, bounded reads, columns, ids, weights, system errors."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.samplers.files import atomic
    from drawstream.samplers.files.atomic import write_atomically
    from drawstream.samplers.files.documents import parse_json, read_json, read_regular, read_toml
    from drawstream.samplers.files.row_ids import by_row_order, integers, match_rows, sample_ids
    from drawstream.samplers.files.system import DESCRIPTORS, fault_behind, fault_of, raise_unless_file, system_fault
    from drawstream.samplers.files.table_arrays import IDS, listed
    from drawstream.samplers.files.table_file import TableFile, open_table
    from drawstream.samplers.files.weights_file import map_weights, read_weights
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
