"""The seal of a schedule's file.

WARNING: a change here means that recorded orders of users are refused. Make a new format in place of it.
"""

import numpy as np
import pyarrow as pa

from drawstream.samplers.orders.schedule import Schedule, write_schedule

ORDERS = [np.array([2, 0, 1, 1]), np.array([0, 1, 2, 3])]


def test_the_seal_of_format_2(tmp_path):
    path = tmp_path / "schedule.arrow"
    write_schedule(path, ORDERS, rows=4, catalog="abc", provenance={"by": "test"})
    with pa.ipc.open_file(path) as reader:
        assert reader.schema.metadata[b"seal"] == b"ae1dec161ee79f82d4d0a619a3381b1c"
    found = Schedule.open(path)
    assert (found.rows, found.draws, found.epochs, found.catalog) == (4, 4, 2, "abc")
    assert found.provenance == {"by": "test"}
    assert [found.epoch(epoch)[:].tolist() for epoch in range(2)] == [order.tolist() for order in ORDERS]
