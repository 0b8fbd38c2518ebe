"""Extraction: values against a plain loop, parts by shard, resuming, and what it refuses."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from drawstream.features import FeatureTable, extract
from drawstream.features.extract import Progress
from drawstream.features.scoring import weights_hash
from drawstream.features.table import part_path
from drawstream.pipeline import ArraySource, BadSampleError, Catalog, Transform
from drawstream.pipeline.pack import pack

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
ROWS, SHARDS = 250, 3


def make(classes=10, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource(PIXELS[:ROWS], DIGITS.target[:ROWS])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("extract") / "d", shard_rows=100).train)


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equals_a_plain_loop(catalog, tmp_path):
    model = make().train()
    seen = []
    table = extract(catalog, model, tmp_path / "f", model_name="mlp", batch_size=64, progress=seen.append)
    pixels = np.concatenate(
        [
            np.frombuffer(catalog.shard_path(catalog.shard[i]).read_bytes(), np.uint8)[catalog.offset[i] :][:64]
            for i in range(ROWS)
        ]
    ).reshape(ROWS, 1, 8, 8)
    model.eval()
    z = model((torch.from_numpy(pixels).float() - 127.5) / 127.5).detach()
    y = torch.from_numpy(catalog.label.copy())
    columns = table.columns(*table.names)
    assert table.names == ("loss", "entropy", "grad_norm", "target_prob", "correct")
    np.testing.assert_allclose(columns["loss"], F.cross_entropy(z, y, reduction="none"), rtol=1e-4)
    np.testing.assert_allclose(columns["target_prob"], z.softmax(1)[range(ROWS), y], rtol=1e-4)
    assert (columns["correct"] == (z.argmax(1) == y).numpy()).all()
    assert table.sample_id.tolist() == list(range(ROWS)) and (table.label == catalog.label).all()
    assert seen[-1] == Progress(ROWS, ROWS) and [p.done for p in seen] == sorted({p.done for p in seen})


def test_one_part_per_shard_with_its_provenance(catalog, tmp_path):
    table = extract(catalog, make(), tmp_path, model_name="mlp", grad_norm="logit", measures=["grad_norm", "loss"])
    assert sorted(parts(tmp_path)) == [f"part-{i:05d}.parquet" for i in range(SHARDS)]
    for i in range(SHARDS):
        rows = pq.read_table(part_path(tmp_path, i), columns=["sample_id"])["sample_id"].to_pylist()
        assert rows == list(range(*catalog.shard_rows(i)))
    provenance = dict(table.provenance)
    assert provenance.pop("weights") == weights_hash(make())
    provenance.pop("format")
    assert provenance == {
        "catalog": catalog.fingerprint,
        "parts": SHARDS,
        "model": "mlp",
        "transform": Transform.small((8, 8), 1).as_dict(),
        "crops": None,
        "grad_norm": "logit",
        "grad_memory": None,
        "head": None,
        "measures": ["loss", "grad_norm"],
        "functions": {},
        "batch_size": 256,
        "amp": "off",
        "channels_last": False,
        "device": "cpu",
    }


def test_two_classes_have_no_entropy(tmp_path):
    source = ArraySource(PIXELS[:60], DIGITS.target[:60] % 2)
    catalog = Catalog.open(pack(source, tmp_path / "d").train)
    assert "entropy" not in extract(catalog, make(2), tmp_path / "f", model_name="mlp").names
    with pytest.raises(ValueError, match="the renormed entropy needs at least 3 classes, but there are 2"):
        extract(catalog, make(2), tmp_path / "g", model_name="mlp", measures=["entropy"])
    assert not (tmp_path / "g").exists()


def test_what_is_there_is_kept_and_the_rest_is_made(catalog, tmp_path):
    extract(catalog, make(), tmp_path, model_name="mlp", batch_size=32)
    whole = parts(tmp_path)
    inode = part_path(tmp_path, 0).stat().st_ino
    part_path(tmp_path, 1).unlink()
    seen = []
    extract(catalog, make(), tmp_path, model_name="mlp", batch_size=32, progress=seen.append)
    assert parts(tmp_path) == whole and part_path(tmp_path, 0).stat().st_ino == inode
    assert [p.done for p in seen] == [150 + n for n in (32, 64, 96, 100)]  # rows of the parts found count as done


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("model", {"model_name": "cnn"}),
        ("weights", {"model": make(seed=1)}),
        ("transform", {"transform": Transform((8, 8), (0.0,), (1.0,))}),
        ("grad_norm", {"grad_norm": "logit"}),
        ("measures", {"measures": ["loss", "grad_norm"]}),
    ],
)
def test_another_extraction_is_refused(catalog, tmp_path, what, options):
    extract(catalog, make(), tmp_path, model_name="mlp")
    whole = parts(tmp_path)
    options = {"model_name": "mlp", "model": make()} | options
    with pytest.raises(
        ValueError, match=rf"part-00000\.parquet: {what} is .+, but this extraction has .+: give another"
    ):
        extract(catalog, options.pop("model"), tmp_path, **options)
    assert parts(tmp_path) == whole


def test_another_catalog_is_refused(catalog, tmp_path):
    extract(catalog, make(), tmp_path / "f", model_name="mlp")
    source = ArraySource(PIXELS[:ROWS], DIGITS.target[:ROWS])
    other = Catalog.open(pack(source, tmp_path / "d", shard_rows=100, label_noise=0.1).train)
    text = f'catalog is "{catalog.fingerprint}", but this extraction has "{other.fingerprint}"'
    with pytest.raises(ValueError, match=text):
        extract(other, make(), tmp_path / "f", model_name="mlp")


def test_broken_weights_are_refused(catalog, tmp_path):
    model = make()
    model[4].weight.data[3, 5] = torch.nan
    text = r"feature 'loss' is nan for sample '.+' \(row 0\), and not finite for 100 rows of its shard: the model"
    with pytest.raises(ValueError, match=text):
        extract(catalog, model, tmp_path, model_name="mlp")
    assert parts(tmp_path) == {}


@pytest.mark.parametrize("head", [nn.Linear(32, 9), nn.Linear(32, 11), nn.Identity(), nn.Unflatten(1, (4, 8))])
def test_wrong_class_count_is_refused(catalog, tmp_path, head):
    model = make()
    model[4] = head
    with pytest.raises(ValueError, match=r"logits of shape \(100, .+ has 10 classes: build the model for 10 classes"):
        extract(catalog, model, tmp_path, model_name="mlp")
    assert parts(tmp_path) == {}


def test_models_without_a_linear_head_need_the_logit_norm(catalog, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ValueError, match="does not end in a linear layer: choose the gradient norm of the logits"):
        extract(catalog, model, tmp_path, model_name="conv")
    assert len(extract(catalog, model, tmp_path, model_name="conv", grad_norm="logit")) == ROWS
    with pytest.raises(ValueError, match="`grad_norm` must be last, logit or full, but got 'fully'"):
        extract(catalog, model, tmp_path, model_name="conv", grad_norm="fully")


def test_damaged_shard_is_named_and_the_others_are_kept(tmp_path):
    source = ArraySource(PIXELS[:ROWS], DIGITS.target[:ROWS])
    catalog = Catalog.open(pack(source, tmp_path / "d", shard_rows=100).train)
    whole = catalog.shard_path(1).read_bytes()
    at = int(catalog.offset[130])
    catalog.shard_path(1).write_bytes(whole[:at] + b"\xff\x01" + whole[at + 2 :])
    with pytest.raises(BadSampleError, match=r"\(row 130\) of .*shard-000001\.tar: its 64 bytes do not match"):
        extract(catalog, make(), tmp_path / "f", model_name="mlp")
    assert list(parts(tmp_path / "f")) == ["part-00000.parquet"]
    with pytest.raises(ValueError, match="1 of 3 parts are there"):
        FeatureTable.open(tmp_path / "f")
    catalog.shard_path(1).write_bytes(whole)
    assert len(extract(catalog, make(), tmp_path / "f", model_name="mlp")) == ROWS


def test_weights_hash_sees_names_types_shapes_and_buffers():
    def hashed(**tensors):
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return weights_hash(module)

    zeros = torch.zeros(4)
    distinct = [
        hashed(a=zeros),
        hashed(b=zeros),
        hashed(a=zeros, b=zeros),
        hashed(a=zeros.reshape(2, 2)),
        hashed(a=zeros.int()),
        hashed(a=zeros.bfloat16()),
        hashed(a=torch.zeros(())),
        hashed(a=torch.tensor([0.0, 0, 0, 1e-45])),
    ]
    assert len(set(distinct)) == len(distinct)
    assert hashed(a=zeros) == hashed(a=torch.zeros(8)[::2])  # layout in memory does not count
