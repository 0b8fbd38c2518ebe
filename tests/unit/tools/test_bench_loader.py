"""The loader benchmark: its result has the promised shape, and its table every system."""

import numpy as np
from sklearn.datasets import load_digits

from drawstream.pipeline import Catalog
from drawstream.pipeline.pack import pack
from drawstream.tools.bench.loader import _digits, run


def test_result_and_table(capsys):
    result = run(batch_sizes=(128,), images=3000, rounds=3)
    systems = [(row["system"], row["batch_size"]) for row in result["rows"]]
    assert systems == [("drawstream", 128), ("dali external_source", 128), ("dali external_source", 2048)]
    for row in result["rows"]:
        assert len(row["rounds"]) == 3 and row["images_per_second"] == sorted(row["rounds"])[1] > 0
    ours, *bare = (row["images_per_second"] for row in result["rows"])
    assert result["ratio_to_bare_dali"] == ours / max(bare)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "system",
        "drawstream",
        "dali",
        "dali",
    ]


def test_digits_are_repeated_at_28_pixels(tmp_path):
    source = _digits(2000)
    assert source.images.shape == (2000, 28, 28) and (source.images[1797:] == source.images[:203]).all()
    middle = source.images[5, 3:26:3, 3:26:3]
    assert (middle == (load_digits().images[5] * 15.9375).astype(np.uint8)).all()
    assert len(Catalog.open(pack(source, tmp_path / "d").train)) == 2000
