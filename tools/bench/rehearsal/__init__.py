"""The rehearsal: the whole way at ImageNet's number of rows."""
