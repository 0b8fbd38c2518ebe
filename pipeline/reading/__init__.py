"""Reading: bytes of shards, read ahead, checked, cached; bad samples and quarantine."""
