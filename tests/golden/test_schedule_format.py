"""Golden files of schedules: what earlier versions wrote is read for ever, and the seal of format 2 is pinned.

WARNING: a change here means that recorded orders of users are refused. Make a new format in place of it.
"""

import base64
import zlib

import numpy as np
import pyarrow as pa

from drawstream.samplers.orders.schedule import Schedule, write_schedule

ORDERS = [np.array([2, 0, 1, 1]), np.array([0, 1, 2, 3])]
FORMAT_1 = (
    "c-rk$O-jQ+6n^<J4JDL-MO<_dasW|qA#QB<f=~oE-K6Qz3biRow1@~Eqf3`AJb=p{pa*d2!h7g9lb13Kbt?!yczM71=6y4n^!ojat0ST>$kHMTNlKGi"
    "<k1fK@F14E$p?74oc~llp^xYl`UD+7PdGmZW{3S2^dTPJ$EQ(TilU4kNny<M>`u&*St^L0(I0ZZ15Ji0HDJ@EOs3hGR$3jS(lM_+%9BL_`>~}i{XA1;"
    "OdY7%eX4lYeV|XfHBOm}<mRAACt`Fv6=WlS&b@2k;|)i?8*xsG2VIEk@uaLGAL^-!g>~90Zm69Lc^@rX+Kz_dRCB5seRTU(+Ujy$p3fU>o8y4?_=Ez5"
    "OpZ(YFo#r26LGLPtAWP37Tq@`GOU>owVb^L%ZzO!whW7}=S<hX&e!B=Yv=qE-+G+@tUbjvthfUG63;HLBe7l>c*SV-J}m9+dD8aj{|^8D9e&4<J@v2s"
    "1~Imcz5"
)


def content(schedule):
    facts = schedule.rows, schedule.draws, schedule.epochs, schedule.catalog, schedule.provenance
    return facts, [schedule.epoch(epoch)[:].tolist() for epoch in range(schedule.epochs)]


def test_a_schedule_of_format_1_is_read(tmp_path):
    path = tmp_path / "schedule.arrow"
    path.write_bytes(zlib.decompress(base64.b85decode(FORMAT_1)))
    facts, orders = content(Schedule.open(path, catalog="abc"))
    assert facts == (4, 4, 2, "abc", {"by": "test"})
    assert orders == [order.tolist() for order in ORDERS]


def test_the_seal_of_format_2(tmp_path):
    path = tmp_path / "schedule.arrow"
    write_schedule(path, ORDERS, rows=4, catalog="abc", provenance={"by": "test"})
    with pa.ipc.open_file(path) as reader:
        assert reader.schema.metadata[b"seal"] == b"ae1dec161ee79f82d4d0a619a3381b1c"
    assert content(Schedule.open(path)) == ((4, 4, 2, "abc", {"by": "test"}), [order.tolist() for order in ORDERS])
