"""Catalogs of many rows without shards: their columns alone, for tests of memory and of opening."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drawstream.pipeline.shards.catalog_file import (
    ENCODINGS,
    FILE,
    FORMAT,
    METADATA,
    SCHEMA,
    SEAL,
    Shard,
    fingerprint,
    seal,
)

SHARD = 100_000  # rows of a shard
GROUP = 1 << 20  # rows of a Parquet row group


def vast_catalog(folder, rows, seed=0):
    """Write a catalog of so many JPEGs of 32 × 32 pixels, which `Catalog.open_rows` opens; gives its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    row = np.arange(rows, dtype=np.int64)
    columns = {
        "shard": (row // SHARD).astype(np.int32),
        "offset": row % SHARD * 1024 + 512,
        "size": np.full(rows, 500, np.int64),
        "checksum": (row * 2654435761 + seed).astype(np.uint32),
        "label": row % 10,
        "height": np.full(rows, 32, np.int32),
        "width": np.full(rows, 32, np.int32),
    }
    codes = np.zeros(rows, np.int8)
    keys = pa.array(row).cast(pa.string()).cast(pa.large_string())
    shards = [Shard(f"{i}.tar", SHARD * 1024, f"{i:032x}", f"{i}") for i in range(-(-rows // SHARD))]
    meta = {
        "format": FORMAT,
        "fingerprint": fingerprint(shards, columns, keys, codes),
        "checksum": "xxh3_64",
        "hash": "xxh3_128",
        "orientation": "exif",
        "label_kind": "class",
        "key_form": "key",
        "fields": [],
        "channels": 3,
        "classes": [str(c) for c in range(10)],
        "shards": [asdict(shard) for shard in shards],
        "provenance": {},
    }
    fields = [column for column in SCHEMA if column.name != "clean_label"]
    text = json.dumps(meta).encode()
    schema = pa.schema(fields, metadata={METADATA: text, SEAL: seal(text, [each.name for each in fields], None)})
    with pq.ParquetWriter(folder / FILE, schema, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, rows, GROUP):
            part = slice(start, start + GROUP)
            arrays = {name: pa.array(column[part]) for name, column in columns.items()}
            arrays["key"] = keys.slice(start, GROUP).cast(pa.string())
            arrays["encoding"] = pa.DictionaryArray.from_arrays(pa.array(codes[part]), pa.array(ENCODINGS))
            writer.write_table(pa.table([arrays[each.name].cast(each.type) for each in fields], schema=schema))
    return folder
