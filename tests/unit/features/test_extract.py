"""Extraction: values against a plain loop, parts by shard, resuming, and what it refuses."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drawstream import BadSampleError, Crops, FeatureTable, Scoring, ShardScorer, Transform, Workers, write_part
from drawstream.features import extract_features as extract
from drawstream.features import measure, provenance
from drawstream.features.extraction import Progress
from drawstream.features.options import weights_hash
from drawstream.features.table import part_path
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, array_catalog, digits_catalog

ROWS, SHARDS = 250, 3


def make(classes=10, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("extract") / "d", ROWS, shard_rows=100)


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
    catalog = array_catalog(tmp_path / "d", PIXELS[:60], LABELS[:60] % 2)
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
        ("crops", {"crops": 2}),
        ("batch_size", {"batch_size": 32}),
        ("amp", {"amp": "bf16"}),
        ("channels_last", {"channels_last": True}),
        ("head", {"head": "4"}),
    ],
)
def test_another_extraction_is_refused(catalog, tmp_path, what, options):
    extract(catalog, make(), tmp_path, model_name="mlp")
    whole = parts(tmp_path)
    options = {"model_name": "mlp", "model": make()} | options
    with pytest.raises(ValueError, match=rf"part-00000\.parquet: made with {what}\b.+, not .+: give another"):
        extract(catalog, options.pop("model"), tmp_path, **options)
    assert parts(tmp_path) == whole


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told(catalog, tmp_path):
    with pytest.raises(ValueError, match="`device` must be cpu, for torch sees no CUDA device"):
        extract(catalog, make(), tmp_path, model_name="mlp", device="gpu")


def test_another_catalog_is_refused(catalog, tmp_path):
    extract(catalog, make(), tmp_path / "f", model_name="mlp")
    other = digits_catalog(tmp_path / "d", ROWS, shard_rows=100, label_noise=0.1)
    text = f"made with catalog {catalog.fingerprint[:12]}, not {other.fingerprint[:12]}"
    refused(text, lambda: extract(other, make(), tmp_path / "f", model_name="mlp"))


@pytest.mark.parametrize(
    ("workers", "error", "hint"),
    [(Workers(2), ValueError, r"runs on Ray: give `Workers\(2, engine='ray'\)`"), (2, TypeError, "must be a Workers")],
)
def test_several_workers_without_ray_are_refused(catalog, tmp_path, workers, error, hint):
    refused(hint, lambda: extract(catalog, make(), tmp_path / "f", model_name="mlp", workers=workers), error=error)
    assert not (tmp_path / "f").exists()


def test_broken_weights_are_refused(catalog, tmp_path):
    model = make()
    model[4].weight.data[3, 5] = torch.nan
    text = r"feature 'loss' is nan for sample '.+' \(row 0\), and not finite for 100 rows of its shard: the model"
    refused(text, extract, catalog, model, tmp_path, model_name="mlp")
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


def test_the_gradient_norm_of_all_parameters(catalog, tmp_path):
    model = make()
    found = extract(catalog, model, tmp_path / "f", model_name="mlp", grad_norm="full", measures=["loss", "grad_norm"])
    last = extract(catalog, model, tmp_path / "l", model_name="mlp", measures=["loss", "grad_norm"])
    assert found.names == ("loss", "grad_norm")
    full, part = (each.columns("grad_norm")["grad_norm"] for each in (found, last))
    assert (full > part).all()  # the other layers come on top
    np.testing.assert_array_equal(found.columns("loss")["loss"], last.columns("loss")["loss"])
    assert (found.provenance["grad_norm"], found.provenance["grad_memory"]) == ("full", 1 << 28)
    with pytest.raises(ValueError, match="`full` gradient norms need float32 throughout, but `amp` is bf16: turn it"):
        extract(catalog, model, tmp_path / "amp", model_name="mlp", grad_norm="full", amp="bf16")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    both = [extract(catalog, linear, tmp_path / m, model_name="m", grad_norm=m).columns("grad_norm") for m in MODES]
    np.testing.assert_allclose(both[0]["grad_norm"], both[1]["grad_norm"], rtol=1e-5)


MODES = ("full", "last")


def test_a_head_by_its_name(catalog, tmp_path):
    named = extract(catalog, make(), tmp_path / "named", model_name="mlp", head="4")
    found = extract(catalog, make(), tmp_path / "found", model_name="mlp")
    np.testing.assert_array_equal(named.columns("grad_norm")["grad_norm"], found.columns("grad_norm")["grad_norm"])
    with pytest.raises(ValueError, match=r"no linear layer 'fc': give one of '1', '4'"):
        extract(catalog, make(), tmp_path / "other", model_name="mlp", head="fc")
    with pytest.raises(ValueError, match="logits are not the output of linear layer '1'"):
        extract(catalog, make(), tmp_path / "other", model_name="mlp", head="1")
    assert parts(tmp_path / "other") == {}


class Photo(nn.Module):
    """A convolution before the head; says what it was shown."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, 10)
        self.logits, self.layouts = [], []

    def forward(self, x):
        y = self.conv(x)
        self.layouts.append(self.conv.weight.is_contiguous(memory_format=torch.channels_last))
        z = self.head(y.relu().flatten(1))
        self.logits.append(z)
        return z


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_logits_give_float32_measures(catalog, tmp_path, amp, dtype):
    model = Photo()
    table = extract(catalog, model, tmp_path / "amp", model_name="p", amp=amp)
    z = torch.cat(model.logits)
    assert z.dtype == dtype
    expected = measure(z, torch.from_numpy(catalog.label.copy()), None, ("loss", "entropy", "target_prob"))
    for name, values in expected.items():
        assert values.dtype == torch.float32
        np.testing.assert_allclose(table.columns(name)[name], values, rtol=1e-6, err_msg=name)
    plain = extract(catalog, Photo(), tmp_path / "off", model_name="p").columns("loss", "grad_norm")
    for name, values in table.columns("loss", "grad_norm").items():
        assert (values != plain[name]).any()
        np.testing.assert_allclose(values, plain[name], rtol=0.05, atol=0.02)
    assert table.provenance["amp"] == amp
    with pytest.raises(ValueError, match="`amp` must be off, bf16 or fp16, but got 'half'"):
        extract(catalog, Photo(), tmp_path / "half", model_name="p", amp="half")


def test_channels_last_changes_the_layout_and_hardly_the_values(catalog, tmp_path):
    model = Photo()
    table = extract(catalog, model, tmp_path / "last", model_name="p", channels_last=True)
    assert all(model.layouts)
    plain = extract(catalog, Photo(), tmp_path / "first", model_name="p")
    assert table.provenance["weights"] == plain.provenance["weights"] == weights_hash(model)
    for name in ("loss", "entropy", "grad_norm"):
        np.testing.assert_allclose(table.columns(name)[name], plain.columns(name)[name], rtol=1e-4)


def test_a_scorer_can_take_any_shard_in_any_order(catalog, tmp_path):
    extract(catalog, make(), tmp_path / "whole", model_name="mlp", crops=2)
    scoring = Scoring(crops=Crops(2))
    made = provenance(catalog, make(), scoring, model_name="mlp")
    (tmp_path / "mixed").mkdir()
    with ShardScorer(catalog, make(), scoring) as scorer:
        for shard in (2, 0, 1, 2):
            write_part(part_path(tmp_path / "mixed", shard), scorer.score(shard), made)
    assert parts(tmp_path / "mixed") == parts(tmp_path / "whole")


def test_damaged_shard_is_named_and_the_others_are_kept(tmp_path):
    catalog = digits_catalog(tmp_path / "d", ROWS, shard_rows=100)
    whole = catalog.shard_path(1).read_bytes()
    at = int(catalog.offset[130])
    catalog.shard_path(1).write_bytes(whole[:at] + b"\xff\x01" + whole[at + 2 :])
    with pytest.raises(BadSampleError, match=r"\(row 130\) of .*shard-000001\.tar: its 64 bytes do not match"):
        extract(catalog, make(), tmp_path / "f", model_name="mlp")
    assert list(parts(tmp_path / "f")) == ["part-00000.parquet"]
    refused("1 of 3 parts are there", FeatureTable.open, tmp_path / "f")
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


@pytest.mark.parametrize("crops", [0, 3])
def test_some_samples_are_scored_as_all_of_them_are(catalog, tmp_path, crops):
    first = catalog.shard_rows(1)[1]
    keys = [catalog.key(row) for row in range(5, first, 7)]  # none of the last shard
    where = f"key in ({', '.join(map(repr, keys))})"
    options = {"model_name": "mlp", "batch_size": 32} | ({"crops": Crops(crops)} if crops else {})
    seen = []
    some = extract(catalog, make(), tmp_path / "some", where=where, progress=seen.append, **options)
    whole = extract(catalog, make(), tmp_path / "whole", **options)
    kept = np.isin(whole.sample_id, np.arange(5, first, 7))
    assert some.sample_id.tolist() == whole.sample_id[kept].tolist() and len(some) == len(keys) * max(1, crops)
    assert [part.rows for part in some.parts][-1] == 0 and seen[-1] == Progress(len(some), len(some))
    for name in some.names:
        np.testing.assert_allclose(some.columns(name)[name], whole.columns(name)[name][kept], rtol=1e-5, atol=1e-6)
    if crops:
        assert (some.windows == whole.windows[kept]).all() and (some.flip == whole.flip[kept]).all()
    assert some.provenance["where"] == where.replace('"', "'") and "where" not in whole.provenance
    refused("where", extract, catalog, make(), tmp_path / "some", **options)
    refused("no column 'loss'", extract, catalog, make(), tmp_path / "other", where="loss < 1", **options)
