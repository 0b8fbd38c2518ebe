"""Long-tailed training: class-balanced methods and DRW in `train`, balance under other samplers, groups of classes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from drawstream import Balanced, IndexStream, pack
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import count_rows
from drawstream.tools.cli.app import main
from drawstream.tools.training.methods.long_tail import DeferredReweighting, deferred_start
from drawstream.tools.training.methods.plan import Balance, Inputs
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.shots import ShotGroups
from shared.programs import cli
from shared.refusals import refused
from shared.samples import LABELS, PIXELS

COUNTS = np.array([600, 250, 100, 50])
CLASSES = np.repeat(np.arange(4), COUNTS)


def made(name, where=None, labels=CLASSES, **options):
    rows = len(labels)
    inputs = Inputs(
        name=name,
        rows=rows,
        epochs=10,
        where=where,
        images=None if where is None else int(where.sum()),
        balance=Balance(**options),
        chosen="loss",
        labels=lambda: labels,
        weights=lambda: np.arange(rows) % 3 + 1.0,
        column=lambda _: np.ones(rows, np.float32),
    )
    return METHODS[name].plan(inputs)


def learns(name):
    """Whether a method draws by importance: all rows, each once, at a whole budget."""
    return str(METHODS[name].build).endswith((":importance", ":robust", ":soft_cap", ":clean"))


def drawn(stream, epoch=0):
    """Draws of each class in an epoch."""
    return np.bincount(CLASSES, weights=count_rows(stream.epoch(epoch), stream.rows), minlength=4)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("balanced", [250] * 4, [250] * 4),
        ("progressive", COUNTS, [250] * 4),
        ("deferred", COUNTS, [250] * 4),
        ("effective-number", [250] * 4, [250] * 4),
    ],
)
def test_draws_of_classes(name, first, last):
    plan = made(name, effective_beta=0.999999)
    assert drawn(plan.stream) == pytest.approx(first, abs=12)
    assert drawn(plan.stream, 9) == pytest.approx(last, abs=12)
    assert len(plan.stream.epoch(0)) == 1000


def test_schedules_of_the_balance():
    assert drawn(made("progressive").stream, 3) == pytest.approx(COUNTS * 2 / 3 + 250 / 3, abs=12)
    assert np.array_equal(drawn(made("deferred").stream, 7), COUNTS)
    assert np.array_equal(drawn(made("deferred", defer_until=9).stream, 8), COUNTS)
    assert [deferred_start(each) for each in (1, 2, 3, 10, 200)] == [0, 1, 2, 8, 160]
    refused("--defer-until 10 never comes in 10 epochs", made, "deferred", defer_until=10)
    assert made("deferred").stream.fingerprint != made("deferred", defer_until=9).stream.fingerprint


def test_repeat_factors_take_classes_of_rows():
    matrix = np.eye(4, dtype=np.uint8)[CLASSES]
    matrix[:, 0] = 1  # all rows have the first class, too
    found = drawn(made("repeat-factors", labels=matrix, repeat_threshold=0.2).stream)
    wanted = COUNTS * np.sqrt([1, 1, 2, 4])
    assert found == pytest.approx(1000 * wanted / wanted.sum(), abs=12)
    refused("several labels a row are for repeat_factors", made, "balanced", labels=matrix)


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if "balance" in each.options])
def test_balance_is_of_every_sampler_that_says_so(name):
    if METHODS[name].given == "own":
        return
    plain, half, whole = (made(name, balance=gamma).stream for gamma in (0.0, 0.5, 1.0))
    if learns(name):
        assert isinstance(whole._sampler, Balanced)
        totals = np.bincount(CLASSES, weights=whole._sampler.probabilities(0))
        assert totals / totals.sum() == pytest.approx([0.25] * 4)
        return
    shares = [drawn(each) / len(each.epoch(0)) for each in (plain, half, whole)]
    assert shares[0] == pytest.approx(COUNTS / 1000, abs=0.015)
    assert shares[1] == pytest.approx(np.sqrt(COUNTS) / np.sqrt(COUNTS).sum(), abs=0.015)
    assert shares[2] == pytest.approx([0.25] * 4, abs=0.015)
    assert len({each.fingerprint for each in (plain, half, whole)}) == 3


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if "where" in each.options])
def test_rows_that_are_left_out_are_never_drawn(name):
    if METHODS[name].given == "own":
        return
    where = np.arange(1000) % 2 == 0
    stream = made(name, where=where).stream
    rows = stream.epoch(0)[:]
    assert len(rows) == len(made(name).stream.epoch(0)) // 2 and where[rows].all()
    if "balance" in METHODS[name].options and not learns(name):
        balanced = drawn(made(name, where=where, balance=1.0).stream)
        assert balanced == pytest.approx([len(rows) / 4] * 4, abs=12)


def test_deferred_reweighting_is_torchs_weighted_cross_entropy_from_its_epoch_on():
    counts, generator = np.array([5000, 500, 50]), torch.Generator().manual_seed(0)
    logits, labels = torch.randn(64, 3, generator=generator), torch.randint(3, (64,), generator=generator)
    weights = torch.ones(64)
    weights[60:] = 0  # fill
    batch = SimpleNamespace(labels=labels, weights=weights)
    loss = DeferredReweighting(counts, epochs=10)
    assert torch.equal(loss(logits, batch, 7), F.cross_entropy(logits, labels, reduction="none"))
    published = (1 - 0.9999) / (1 - 0.9999**counts)  # as Cao et al. compute it
    each = torch.tensor(published / published.sum() * 3, dtype=torch.float32)
    wanted = F.cross_entropy(logits[:60], labels[:60], weight=each)
    assert loss(logits, batch, 8)[:60].mean() == pytest.approx(float(wanted), rel=1e-5)
    assert repr(loss) == "DeferredReweighting(beta=0.9999, start=8)" and not loss.state_dict()
    early = DeferredReweighting(counts, epochs=10, start=7)
    assert torch.equal(early(logits, batch, 7), loss(logits, batch, 8))
    told = refused("--defer-until 10 never comes in 10 epochs", DeferredReweighting, counts, epochs=10, start=10)
    assert "--loss drw" in told


def test_the_epoch_from_which_the_loss_is_deferred_decides_a_training(tail, tmp_path):
    words = ("--loss", "drw", "--defer-until", 1)
    assert run(tail, tmp_path / "drw", *words, epochs=2) == 0
    assert json.loads((tmp_path / "drw/run.json").read_text())["sampling"]["defer_until"] == 1
    base = ("train", tail / "train", "-o", tmp_path / "drw", "--test", tail / "test", "--model", "mlp", "--lr", 0.1)
    base = (*base, "--global-batch", 32, "--epochs", 2)
    assert "nothing was run" in cli(*base, *words, notes=True)
    assert "defer_until" in cli(*base, "--loss", "drw", "--defer-until", 0, status=2)
    told = "--defer-until goes with deferred and --loss drw, but there is none: leave it out"
    assert told in cli(*base, "--defer-until", 1, status=2)


def test_groups_of_classes():
    groups = ShotGroups.of([500, 300, 101, 100, 20, 19, 1, 0])
    assert groups.members == {"many": (0, 1, 2), "medium": (3, 4), "few": (5, 6)} and groups.bounds == (20, 100)
    assert groups.accuracies([90, 80, 70, 60, 40, 20, None, None]) == {"many": 80, "medium": 50, "few": 20}
    assert groups.described("few") == "few: 2 classes of 1 to 19 images"
    tail = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert ShotGroups.of(tail).members == {"many": (0, 1, 2), "medium": (3, 4, 5, 6), "few": (7, 8, 9)}
    given = ShotGroups.of(tail, (60, 1000))
    assert [len(part) for part in given.members.values()] == [4, 5, 1] and given.bounds == (60, 1000)
    assert ShotGroups.of([100, 60, 51]) is None and ShotGroups.of([100, 1]) is None
    refused("1 <= few <= many, but got 5,4", ShotGroups.of, tail, (5, 4))


@pytest.fixture(scope="module")
def tail(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tail")
    pack(ArraySource(PIXELS[300:], LABELS[300:]), folder / "train", long_tail=50)
    pack(ArraySource(PIXELS[:300], LABELS[:300]), folder / "test")
    return folder


def run(tail, out, *options, epochs=5):
    base = ["train", tail / "train", "-o", out, "--test", tail / "test", "--model", "mlp", "--lr", 0.1]
    return main([str(each) for each in (*base, "--global-batch", 32, "--epochs", epochs, *options)])


def test_a_training_tells_what_classes_had_and_gained(tail, tmp_path, capsys):
    assert run(tail, tmp_path / "uniform") == run(tail, tmp_path / "balanced", "--sampler", "balanced") == 0
    assert "% (many: more than 100 training images, few: fewer than 20)" in capsys.readouterr().out
    uniform, balanced = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("uniform", "balanced"))
    counts = np.bincount(Catalog.open(tail / "train").label).tolist()
    assert uniform["class_rows"] == balanced["class_rows"] == counts
    assert uniform["class_drawn"] == [5 * each for each in counts]
    assert balanced["class_drawn"] == pytest.approx([sum(counts) / 2] * 10, abs=25)
    few = [record["result"]["shots"]["accuracy"]["few"] for record in (uniform, balanced)]
    assert few[1] > few[0] + 10  # 3 to 8 images each


def test_balance_of_a_training_is_part_of_its_identity(tail, tmp_path):
    assert run(tail, tmp_path / "half", "--balance", 0.5, epochs=1) == 0
    record = json.loads((tmp_path / "half/run.json").read_text())
    root = np.sqrt(record["class_rows"])
    assert np.array(record["class_drawn"]) == pytest.approx(sum(record["class_rows"]) * root / root.sum(), abs=12)
    assert record["sampling"]["balance"] == 0.5
    base = ("train", tail / "train", "-o", tmp_path / "half", "--test", tail / "test", "--model", "mlp", "--lr", 0.1)
    again = (*base, "--global-batch", 32, "--epochs", 1)
    assert "nothing was run" in cli(*again, "--balance", 0.5, notes=True)
    assert "balance 0.5, not 0.25" in cli(*again, "--balance", 0.25, status=2)
    told = cli(*again, "--sampler", "infobatch", "--balance", 0.5, status=2)
    assert "--balance goes with uniform" in told and "but --sampler is infobatch" in told
    told = cli(*again, "--effective-beta", 0.9, status=2)
    assert "--effective-beta goes with effective-number, but there is none: leave it out" in told
    assert "balance must be in [0, 1], but got 2" in cli(*again, "--balance", 2, status=2)


def test_a_balanced_stream_weighs_as_if_it_were_uniform():
    stream = made("uniform", balance=1.0).stream
    order = stream.epoch(0)
    assert isinstance(stream, IndexStream)
    assert (order.weights(0, len(order)) * (CLASSES[order[:]] == 3)).sum() / len(order) == pytest.approx(0.05, rel=0.01)


def test_a_training_on_some_rows_is_one_on_these_alone(tail, tmp_path):
    where = "label in (0, 1, 2) and key != '00000001'"
    assert run(tail, tmp_path / "some", "--where", where, "--sampler", "balanced", epochs=2) == 0
    record = json.loads((tmp_path / "some/run.json").read_text())
    catalog = Catalog.open(tail / "train")
    kept = (catalog.label < 3) & (np.array(catalog.keys) != "00000001")
    assert record["class_rows"] == np.bincount(catalog.label[kept], minlength=10).tolist()
    assert record["forward"] == sum(record["class_drawn"]) == 2 * kept.sum() and record["effective_budget"] == 1
    assert record["class_drawn"][3:] == [0] * 7
    assert record["class_drawn"][:3] == pytest.approx([2 * kept.sum() / 3] * 3, abs=15)
    base = ("train", tail / "train", "-o", tmp_path / "some", "--model", "mlp", "--epochs", 2, "--sampler", "balanced")
    base = (*base, "--test", tail / "test", "--lr", 0.1, "--global-batch", 32)
    assert "nothing was run" in cli(*base, "--where", where.replace("'", '"').replace(" != ", "!="), notes=True)
    assert "not 'label < 3'" in cli(*base, "--where", "label < 3", status=2)
    for condition, told in (
        ("lable < 3", "no column 'lable': did you mean label?"),
        ("label > 9", "holds for none of"),
        ("label >", "is not understood"),
    ):
        assert told in cli(*base[:3], tmp_path / "other", "--where", condition, status=2)
    assert not (tmp_path / "other").exists()


def test_a_table_of_some_images_is_drawn_from_like_one_of_crops(tail, tmp_path):
    assert run(tail, tmp_path / "uniform", epochs=1) == 0
    score = ("features", tail / "train", "-o", tmp_path / "f", "--model", "mlp")
    cli(*score, "--weights", tmp_path / "uniform/last.safetensors", "--where", "label < 4")
    assert "where 'label < 4'" in cli(*score, "--weights", tmp_path / "uniform/last.safetensors", status=2)
    fit = ("fit", tmp_path / "f", "-o", tmp_path / "s.json", "--features", "loss", "--coefficients", 1)
    cli(*fit, "--transform", "cdf", "--ends", ".4,.6", "--values", "1,1,.5,.5")
    table = ("--sampler", tmp_path / "s.json", "--table", tmp_path / "f")
    assert run(tail, tmp_path / "swift", *table, epochs=2) == 0
    record = json.loads((tmp_path / "swift/run.json").read_text())
    counts = np.bincount(Catalog.open(tail / "train").label)
    assert record["class_rows"] == [*counts[:4].tolist(), *[0] * 6] and record["forward"] == 2 * counts[:4].sum()
    assert run(tail, tmp_path / "less", *table, "--where", "label < 2", "--balance", 1, epochs=1) == 0
    record = json.loads((tmp_path / "less/run.json").read_text())
    assert record["class_drawn"][:2] == pytest.approx([counts[:2].sum() / 2] * 2, abs=15)
    assert sum(record["class_drawn"][2:]) == 0
