"""Shards and their catalog: pack, index, tar files, image headers, remote files."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.shards.catalog import Catalog
    from drawstream.pipeline.shards.catalog_file import (
        ENCODINGS,
        FILE,
        RAW,
        AlteredCatalogError,
        Shard,
        checksum_of,
        given_labels,
        hash_file,
    )
    from drawstream.pipeline.shards.checksum import member_checksum
    from drawstream.pipeline.shards.index import IndexResult, idx_lines, write_idx, write_lines
    from drawstream.pipeline.shards.label_noise import stratified_order
    from drawstream.pipeline.shards.labels import CLEAN, Selection, read_label
    from drawstream.pipeline.shards.names import check_name, number_names, printable, shortened
    from drawstream.pipeline.shards.pack import PackResult
    from drawstream.pipeline.shards.remote import Remote, RemoteError, Transfer, cache_folder, is_url
    from drawstream.pipeline.shards.staging import claimed
    from drawstream.pipeline.shards.tar import (
        AS_TAR,
        BLOCK,
        DamagedTarError,
        Member,
        Sample,
        is_header,
        mapped,
        split_name,
        survey,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
