"""Experiments: cells of method, setting and seed, their records, one comparison, one table."""
