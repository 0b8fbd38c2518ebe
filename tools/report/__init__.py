"""The report: one self-contained HTML page from the records that jobs left behind, and its figures."""
