"""Transforms: what they refuse, the laws of their draws; Mixup and RICAP against the formulas of the papers."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from scipy.stats import beta, chisquare, kstest
from torch.nn import functional as F

import drawstream.pipeline.replay as replay_module
from drawstream import RICAP, Mixup, Transform
from drawstream.pipeline.images import Mixed, draw_flips, draw_windows, pixel_windows
from drawstream.pipeline.images.draws import draw_jitter, draw_operations, draw_pad_offsets
from drawstream.pipeline.replay import read_replay, write_replay
from drawstream.samplers.orders import IndexStream
from shared.refusals import refused
from shared.samples import array_catalog

N = 20_000
LAW = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def squares(n, height=400, width=400):
    return np.full(n, height, np.int32), np.full(n, width, np.int32)


def areas_and_aspects(windows, height, width):
    h, w = (windows[:, 2] - windows[:, 0]) * height, (windows[:, 3] - windows[:, 1]) * width
    return h * w / (height * width), w / h


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": (0, 28)}, "`size` must be two positive pixel counts"),
        ({"mean": (1.0,), "std": (1.0, 1.0)}, "one value per channel"),
        ({"mean": (1.0, 1.0), "std": (1.0, 1.0)}, "one value per channel"),
        ({"std": (0.0,)}, "`std > 0` must hold"),
        ({"crop": "middle"}, "`crop` must be none, pad, random or center, but got 'middle'"),
        ({"pad": -1}, "`pad >= 0` must hold, but got -1"),
        ({"scale": (0.0, 1.0)}, r"`scale` must be a range within \(0, 1\]"),
        ({"scale": (0.5, 1.2)}, "`scale` must be a range"),
        ({"ratio": (2.0, 1.0)}, "`ratio` must be a range of positive numbers"),
        ({"randaugment": (0, 9)}, r"`randaugment` must be \(operations >= 1, magnitude in 0..30\), but got \(0, 9\)"),
        ({"randaugment": (2, 31)}, "`randaugment` must be"),
        ({"randaugment": (2, 9), "crop": "center", "resize": 28}, "`randaugment` is for training"),
        ({"suite": "bt"}, "`suite` must be None, or 'bt' beside `randaugment`, but got 'bt' with None"),
        ({"suite": "dali", "randaugment": (2, 9)}, "`suite` must be None, or 'bt'"),
        ({"jitter": (0.4, 0.4, 0.4)}, "`jitter` must be ranges"),
        ({"jitter": (-0.1, 0.0, 0.0, 0.0)}, "`jitter` must be ranges"),
        ({"jitter": (math.nan, 0.0, 0.0, 0.0)}, "`jitter` must be ranges"),
        ({"jitter": (0.0, 0.0, 0.0, 0.6), "mean": (0.0,) * 3, "std": (1.0,) * 3}, r"hue in \[0, 0.5\]"),
        ({"jitter": (0.4, 0.4, 0.4, 0.0)}, "gray images have no saturation and hue, .*: give 0.4,0.4,0,0"),
        ({"crop": "center", "resize": 20}, r"`resize >= max\(size\)` must hold for a centre crop, but got 20"),
    ],
)
def test_impossible_transforms_are_refused(change, text):
    refused(text, Transform, **{"size": (28, 28), "mean": (0.0,), "std": (1.0,)} | change)


def test_as_dict_survives_json():
    changed = replace(Transform.large(train=True), randaugment=(2, 9), jitter=(0.4, 0.4, 0.4, 0.1))
    for transform in (Transform.small((28, 28), 1, augment=True), Transform.large(train=True), changed):
        assert json.loads(json.dumps(transform.as_dict())) == transform.as_dict()
    assert changed.as_dict()["randaugment"] == [2, 9] and changed.as_dict()["jitter"] == [0.4, 0.4, 0.4, 0.1]


def test_as_dict_says_nothing_of_what_is_off():
    """So that loader states and features from before there was a RandAugment stay valid."""
    assert list(Transform.small((28, 28), 1).as_dict()) == [
        "size",
        "mean",
        "std",
        "crop",
        "pad",
        "flip",
        "scale",
        "ratio",
        "resize",
    ]


def test_large_gray_images_get_one_mean():
    assert len(Transform.large(train=False, channels=1).mean) == 1


def test_flips_are_fair_coins():
    coins = draw_flips(0, 0, 0, N)
    assert coins.dtype == bool and abs(coins.mean() - 0.5) < 4 * 0.5 / math.sqrt(N)
    pairs = np.bincount(coins[:-1] * 2 + coins[1:], minlength=4)  # neighbours do not depend on each other
    assert chisquare(pairs).pvalue > 1e-3


def test_pad_offsets_are_uniform():
    offsets = draw_pad_offsets(0, 0, 0, N, 4)
    assert offsets.shape == (N, 2) and offsets.min() == -4 and offsets.max() == 4
    cells = np.bincount((offsets[:, 0] + 4) * 9 + offsets[:, 1] + 4, minlength=81)
    assert chisquare(cells).pvalue > 1e-3
    assert (draw_pad_offsets(0, 0, 0, 100, 0) == 0).all()


def test_operations_and_signs_are_uniform_and_independent():
    drawn = draw_operations(0, 0, 0, N, 3, 14)
    assert drawn.shape == (N, 2, 3) and drawn.dtype == np.int32
    for layer in range(3):
        number, sign = drawn[:, 0, layer], drawn[:, 1, layer]
        assert chisquare(np.bincount(number * 2 + sign, minlength=28)).pvalue > 1e-3
    assert chisquare(np.bincount(drawn[:, 0, 0] * 14 + drawn[:, 0, 2], minlength=196)).pvalue > 1e-3


def test_factors_follow_torchvisions_laws():
    factors = draw_jitter(0, 0, 0, N, (0.4, 1.5, 0.0, 0.1))
    assert factors.dtype == np.float32 and (factors[:, 2] == 1).all()
    for column, low, width in ((0, 0.6, 0.8), (1, 0.0, 2.5), (3, -36.0, 72.0)):
        assert kstest(factors[:, column], "uniform", (low, width)).pvalue > 1e-3


def test_area_is_uniform_and_aspect_log_uniform_where_all_fits():
    law = {"scale": (0.1, 0.5), "ratio": (3 / 4, 4 / 3)}  # at most half of a square: the first draw always fits
    windows = draw_windows(0, 0, 0, *squares(N), **law)
    area, aspect = areas_and_aspects(windows.astype(float), 400, 400)
    assert kstest(area, "uniform", (0.1, 0.4)).pvalue > 1e-3
    assert kstest(np.log(aspect), "uniform", (math.log(3 / 4), 2 * math.log(4 / 3))).pvalue > 1e-3
    for first, length in (
        (windows[:, 0], windows[:, 2] - windows[:, 0]),
        (windows[:, 1], windows[:, 3] - windows[:, 1]),
    ):
        assert kstest(first / (1 - length), "uniform").pvalue > 1e-3  # the corner is uniform over what is left


@pytest.mark.parametrize(("height", "width"), [(400, 400), (333, 500), (100, 1000), (900, 60)])
def test_random_resized_crop_follows_the_plain_algorithm(height, width):
    """The same law by rejection, one image after the other, with another generator; means and spreads must agree."""
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(4000):
        for _ in range(10):
            area = rng.uniform(*LAW["scale"]) * height * width
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if w <= width and h <= height:
                break
        else:  # torchvision's fallback: the largest centred crop of an allowed aspect
            if width / height < 3 / 4:
                w, h = width, width / (3 / 4)
            elif width / height > 4 / 3:
                w, h = height * (4 / 3), height
            else:
                w, h = width, height
        expected.append((h * w / (height * width), w / h))
    windows = draw_windows(1, 2, 0, *squares(4000, height, width), **LAW).astype(float)
    found = areas_and_aspects(windows, height, width)
    for mine, theirs in zip(found, np.array(expected).T, strict=True):
        assert np.quantile(mine, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(theirs, [0.1, 0.5, 0.9]), rel=0.06)
        assert abs(mine.mean() - theirs.mean()) < 5 * theirs.std() / math.sqrt(2000)


def test_long_images_fall_back_to_the_centre():
    windows = draw_windows(0, 0, 0, *squares(200, 10, 1000), **LAW)
    centre = np.isclose(windows[:, 1] + windows[:, 3], 1, atol=1e-5) & (windows[:, 0] == 0) & (windows[:, 2] == 1)
    assert centre.mean() > 0.9
    _, aspect = areas_and_aspects(windows[centre].astype(float), 10, 1000)
    assert aspect == pytest.approx(4 / 3, rel=1e-3)


def test_pixel_windows_are_whole_pixels_inside_the_image():
    windows = np.array(
        [[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [0.5, 0.5, 0.5001, 0.5001], [0.9999999, 0, 1, 1]], np.float32
    )
    heights, widths = np.full(4, 120, np.int32), np.full(4, 160, np.int32)
    expected = [[0, 0, 120, 160], [12, 32, 72, 112], [60, 80, 1, 1], [119, 0, 1, 160]]
    assert pixel_windows(windows, heights, widths).tolist() == expected


def test_windows_on_pixel_edges_come_back_exactly():
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 5000, 5000).astype(np.int32), rng.integers(1, 5000, 5000).astype(np.int32)
    top, left = rng.integers(0, heights), rng.integers(0, widths)
    high, wide = rng.integers(1, heights - top + 1), rng.integers(1, widths - left + 1)
    windows = np.stack([top / heights, left / widths, (top + high) / heights, (left + wide) / widths], 1)
    found = pixel_windows(windows.astype(np.float32), heights, widths)
    assert (found == np.stack([top, left, high, wide], 1)).all()


B, H, W, K = 12, 9, 13, 5
IMAGES = torch.arange(B * 3 * H * W, dtype=torch.float32).reshape(B, 3, H, W)  # every value tells where it comes from
LABELS = torch.arange(B) % K
MIXERS = [Mixup(seed=3), RICAP(seed=3)]


def test_mixup_is_the_weighted_mean_of_two_images():
    mixup = Mixup(alpha=1.0, seed=1)
    for step in range(20):
        mixed = mixup(IMAGES, LABELS, epoch=2, step=step)
        share = mixup.share(2, step)
        assert 0 < share < 1 and torch.equal(mixed.shares, torch.tensor([[share, 1 - share]]).expand(B, 2))
        others = (mixed.images - share * IMAGES) / (1 - share)
        rows = (others[:, 0, 0, 0] / (3 * H * W)).round().long()
        assert sorted(rows.tolist()) == list(range(B))
        assert torch.allclose(mixed.images, share * IMAGES + (1 - share) * IMAGES[rows], atol=1e-2)
        assert torch.equal(mixed.labels, torch.stack([LABELS, LABELS[rows]], 1))


def test_ricap_is_four_patches_with_the_shares_of_their_areas():
    corners, places = set(), set()
    grid = torch.arange(H)[:, None] * W + torch.arange(W)
    for step in range(200):
        mixed = RICAP(beta=1.0, seed=1)(IMAGES, LABELS, epoch=2, step=step)
        source = mixed.images.long() // (3 * H * W)  # which image each value is from
        assert (source == source[:, :1]).all()  # all channels of a pixel are from the same one
        moved = mixed.images.long()[:, 0] % (H * W) - grid  # and how far it has moved there
        share = mixed.shares[0].double()
        h, w = round(float(share[0] + share[1]) * H), round(float(share[0] + share[2]) * W)
        corners.add((h, w))
        for k, (y, x) in enumerate([(y, x) for y in (slice(0, h), slice(h, H)) for x in (slice(0, w), slice(w, W))]):
            patch = source[:, 0, y, x].flatten(1)
            assert (mixed.shares[:, k] == torch.tensor(patch.shape[1] / (H * W))).all()
            if patch.shape[1] == 0:
                continue
            rows = patch[:, 0]
            assert (patch == rows[:, None]).all() and len(moved[:, y, x].unique()) == 1
            assert sorted(rows.tolist()) == list(range(B)) and (k > 0 or torch.equal(rows, torch.arange(B)))
            assert torch.equal(mixed.labels[:, k], LABELS[rows])
            places.add((k, h, w, int(moved[0, y, x][0, 0])))
    assert len(corners) > 60 and len(places) > 400


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: type(m).__name__)
def test_loss_is_cross_entropy_with_soft_labels(mixer):
    mixed = mixer(IMAGES, LABELS, epoch=0, step=4)
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    soft = mixed.soft_labels(K)
    assert soft.dtype == torch.float32 and torch.allclose(soft.sum(1), torch.ones(B))
    rows = mixed.loss(logits, reduction="none")
    assert torch.allclose(rows, F.cross_entropy(logits, soft, reduction="none"), atol=1e-6)
    by_label = [F.cross_entropy(logits, mixed.labels[:, k], reduction="none") for k in range(mixed.labels.shape[1])]
    assert torch.allclose(rows, (torch.stack(by_label, 1) * mixed.shares).sum(1), atol=1e-6)
    assert torch.allclose(mixed.loss(logits), rows.mean())
    mixed.loss(logits).backward()
    assert torch.allclose(logits.grad, (logits.detach().softmax(1) - soft) / B, atol=1e-6)


def test_the_larger_share_is_the_rows_own():
    shares = [Mixup(alpha=1.0, seed=2).share(0, step) for step in range(50)]
    larger = [Mixup(alpha=1.0, seed=2, larger=True) for _ in shares]
    assert [mixup.share(0, step) for step, mixup in enumerate(larger)] == [max(s, 1 - s) for s in shares]
    mixed = larger[0](IMAGES, LABELS, epoch=0, step=3)
    assert torch.equal(mixed.labels[:, 0], LABELS) and float(mixed.shares[0, 0]) == pytest.approx(larger[0].share(0, 3))


def test_all_patches_are_of_other_rows():
    """The first patch is permuted too; the others are those of the plain mixer."""
    for step in range(20):
        plain = RICAP(beta=1.0, seed=1)(IMAGES, LABELS, epoch=2, step=step)
        mixed = RICAP(beta=1.0, seed=1, permuted=True)(IMAGES, LABELS, epoch=2, step=step)
        source = mixed.images.long()[:, 0] // (3 * H * W)
        share = mixed.shares[0].double()
        h, w = round(float(share[0] + share[1]) * H), round(float(share[0] + share[2]) * W)
        assert torch.equal(mixed.shares, plain.shares) and torch.equal(mixed.labels[:, 1:], plain.labels[:, 1:])
        assert torch.equal(mixed.images[:, :, h:], plain.images[:, :, h:])
        if h and w:
            rows = source[:, 0, 0]
            assert (source[:, :h, :w] == rows[:, None, None]).all() and sorted(rows.tolist()) == list(range(B))
            assert not torch.equal(rows, torch.arange(B)) and torch.equal(mixed.labels[:, 0], LABELS[rows])


def test_one_label_twice_counts_once():
    mixed = Mixed(IMAGES[:1], torch.tensor([[2, 2]]), torch.tensor([[0.25, 0.75]]))
    assert mixed.soft_labels(3).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("alpha", [0.2, 0.3, 1.0, 4.0])
def test_shares_follow_the_beta_law(alpha):
    mixup = Mixup(alpha=alpha, seed=2)
    assert kstest([mixup.share(0, step) for step in range(2000)], "beta", (alpha, alpha)).pvalue > 1e-3


def test_boundaries_follow_the_beta_law():
    """Rounded to pixels: P(w <= j) = F((j + 1/2) / W), with Kolmogorov's bound at 0.1 %."""
    ricap, image, steps = RICAP(beta=0.3, seed=2), torch.zeros(2, 1, 20, 50), 1000
    shares = [ricap(image, torch.zeros(2).long(), epoch=0, step=step).shares[0].double() for step in range(steps)]
    share = torch.stack(shares).numpy()
    for found, side in ((share[:, 0] + share[:, 1], 20), (share[:, 0] + share[:, 2], 50)):
        counted = np.bincount(np.rint(found * side).astype(int), minlength=side + 1).cumsum() / steps
        law = beta.cdf((np.arange(side) + 0.5) / side, 0.3, 0.3)
        assert np.abs(counted[:-1] - law).max() < 1.95 / steps**0.5


def test_partners_are_uniform():
    mixup, index = Mixup(seed=0), torch.arange(6)
    images = torch.zeros(6, 1, 1, 1)
    seen = torch.stack([mixup(images, index, epoch=1, step=step).labels[:, 1] for step in range(3000)])
    counts = torch.stack([torch.bincount(seen[:, i], minlength=6) for i in range(6)])
    assert all(chisquare(row).pvalue > 1e-4 for row in counts.numpy())


def test_a_small_alpha_leaves_images_whole():
    """As α goes to 0, λ is 0 or 1: each image is its own, or wholly its partner, and never a mixture."""
    for step in range(20):
        mixed = Mixup(alpha=1e-6, seed=0)(IMAGES, LABELS, epoch=0, step=step)
        share = float(mixed.shares[0, 0])
        assert share in (0, 1)
        rows = (mixed.images[:, 0, 0, 0] / (3 * H * W)).long()
        assert torch.equal(mixed.images, IMAGES[rows])
        assert torch.equal(LABELS[rows], mixed.labels[:, 0 if share == 1 else 1])
        assert share == 0 or torch.equal(rows, torch.arange(B))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Mixup(alpha=0), "`alpha > 0` must hold, but got 0"),
        (lambda: Mixup(alpha=float("nan")), "`alpha > 0` must hold"),
        (lambda: RICAP(beta=-1), "`beta > 0` must hold, but got -1"),
        (lambda: Mixup()(IMAGES, LABELS, epoch=0, step=-1), "`epoch, step, rank >= 0` must hold, but got 0, -1, 0"),
        (lambda: Mixed(IMAGES, LABELS, LABELS).loss(IMAGES, reduction="sum"), "`reduction` must be mean or none"),
    ],
)
def test_impossible_options_are_refused(make, text):
    refused(text, make)


# Orders as DALI index files: DALI's own reader must give the very draws, repeats included


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """60 images whose first pixel is their number, as one shard and as four."""
    folder = tmp_path_factory.mktemp("replay")
    images = np.repeat(np.arange(60, dtype=np.uint8), 16).reshape(60, 4, 4)
    return [
        array_catalog(folder / name, images, np.arange(60) % 10, encoding="raw", shard_rows=rows)
        for name, rows in (("one", 100), ("four", 15))
    ]


def pixels(catalog):
    """First pixel of each row, read through the catalog."""
    found = []
    for row in range(len(catalog)):
        tar = catalog.shard_path(int(catalog.shard[row])).read_bytes()
        end = int(catalog.offset[row] + catalog.size[row])
        found.append(tar[end - 1])
    return np.array(found)


def replayed(folder, draws):
    """Last byte of each image that DALI's webdataset reader delivers."""
    arguments = read_replay(folder)
    assert arguments == json.loads((folder / "replay.json").read_text())

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph():
        return fn.readers.webdataset(**arguments, ext=["pgm"], missing_component_behavior="error")

    pipeline = graph()
    pipeline.build()
    assert pipeline.reader_meta()["__Webdataset_0"]["epoch_size"] == draws
    return np.array([int(np.array(pipeline.run()[0][0])[-1]) for _ in range(draws)])


def test_one_shard_replays_any_order_exactly(catalogs, tmp_path):
    one = catalogs[0]
    order = IndexStream(np.arange(60.0), draws=90).epoch(1)[:]
    assert np.bincount(order).max() > 1
    result = write_replay(one, order, tmp_path / "out")
    assert len(result["paths"]) == 1
    np.testing.assert_array_equal(replayed(tmp_path / "out", 90), pixels(one)[order])


def test_several_shards_replay_exactly_while_runs_are_few(catalogs, tmp_path):
    four = catalogs[1]
    order = np.array([3, 3, 1, 50, 50, 2, 17, 59, 0])
    result = write_replay(four, order, tmp_path)
    assert len(result["paths"]) == len(result["index_paths"]) == 6
    np.testing.assert_array_equal(replayed(tmp_path, 9), pixels(four)[order])


def test_grouping_by_shard_keeps_counts_and_the_order_within(catalogs, tmp_path, monkeypatch):
    four = catalogs[1]
    monkeypatch.setattr(replay_module, "MOST_RUNS", 4)
    order = IndexStream(np.arange(60.0), draws=90).epoch(0)[:]
    refused(re.escape("at most 4 runs of one shard as .idx files, but has "), write_replay, four, order, tmp_path)
    write_replay(four, order, tmp_path, by_shard=True)
    expected = np.concatenate([order[order // 15 == shard] for shard in range(4)])
    np.testing.assert_array_equal(replayed(tmp_path, 90), pixels(four)[expected])


def test_a_second_export_leaves_nothing_of_the_first(catalogs, tmp_path):
    write_replay(catalogs[1], np.array([0, 20, 40]), tmp_path)
    write_replay(catalogs[1], np.array([0]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.idx", "replay.json", "replay.xxh128"]


def test_refusals(catalogs, tmp_path):
    (tmp_path / "shard.idx").write_text("mine")
    refused(re.escape("holds other .idx files (shard.idx, …)"), write_replay, catalogs[0], np.array([0]), tmp_path)
    assert (tmp_path / "shard.idx").read_text() == "mine"
    refused("at least one draw", write_replay, catalogs[0], np.array([], dtype=np.int64), tmp_path)
    with pytest.raises(ValueError, match=re.escape("rows must be in [0, 60), but got 0 … 60")):
        write_replay(catalogs[0], np.array([0, 60]), tmp_path)


def test_any_flipped_bit_is_refused(catalogs, tmp_path):
    expected = write_replay(catalogs[1], np.array([0, 20, 40, 20]), tmp_path)
    assert read_replay(tmp_path) == expected
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 13):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            refused("export it again", read_replay, tmp_path)
        path.write_bytes(whole)
    assert read_replay(tmp_path) == expected


def test_an_export_that_is_not_whole_is_refused(catalogs, tmp_path):
    write_replay(catalogs[1], np.array([0, 20]), tmp_path)
    (tmp_path / "00001.idx").rename(tmp_path / "b.idx")
    refused(r"'00001\.idx' differs: export it again", read_replay, tmp_path)
    (tmp_path / "replay.xxh128").unlink()
    refused("not finished: export it again", read_replay, tmp_path, error=FileNotFoundError)
