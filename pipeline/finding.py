"""What ``verify`` finds, one thing at a time."""

from dataclasses import dataclass

WHOLE = frozenset({"missing", "unreadable", "swapped", "not-a-tar"})  # kinds after which no row of the shard is usable


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Kinds about a whole shard, none of whose rows can be used: ``missing``; ``unreadable`` (the system refuses it);
    ``swapped`` (the content of another shard of the catalog); ``not-a-tar``.

    Kinds about a shard some of whose rows may be whole, each bad row having a finding of its own: ``truncated``;
    ``stale`` (a sound tar with other members: written anew after the catalog was made); ``header`` (a damaged header or
    end of the archive); ``bytes`` (the hash differs, the members do not: padding, labels or images were altered);
    ``extra`` (a sample that the catalog does not know; it has a key and no row).

    Kinds about a row: ``lost`` (past the end of its shard); ``member`` (no member of the shard with its key, place,
    length and encoding); ``checksum`` (its image's bytes differ); ``label`` (its label member says something else);
    ``size`` (the image has other dimensions); ``decode`` (the image does not decode).

    Attributes:
        kind: One of the above.
        shard: Number of the shard.
        row: Row of the catalog, or None where the finding is about a shard.
        key: Key of the sample, or None where the finding is about a shard.
        message: What, where and how to mend it, in one line.
    """

    kind: str
    shard: int
    row: int | None
    key: str | None
    message: str
