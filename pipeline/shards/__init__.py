"""Shards and their catalog: pack, index, tar files, image headers, remote files."""
