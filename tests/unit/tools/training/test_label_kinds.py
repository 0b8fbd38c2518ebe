"""Training on labels of each kind: loss, metrics, best epoch, records, resume; what a kind cannot have is refused."""

import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional as F

from drawstream import ArraySource, FeatureTable, OrderedSGD, pack
from drawstream.features import label_losses
from drawstream.tools.training import Ranks, Recipe, Setup
from drawstream.tools.training.evaluation import MarkScores, average_precision, evaluate
from drawstream.tools.training.methods import Chooser, Step
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import LABELS, PIXELS

ROWS = 700
BRIGHT = (PIXELS[:ROWS].mean((1, 2)) / 255).astype(np.float32)
VALUES = np.stack([BRIGHT, PIXELS[:ROWS, 2:6, 2:6].mean((1, 2)) / 255], 1).astype(np.float32)
MARKS = np.stack([LABELS[:ROWS] == 0, LABELS[:ROWS] % 2 == 0, LABELS[:ROWS] > 4, LABELS[:ROWS] > 99], 1).astype(
    np.uint8
)
SOURCES = {
    "multi": (MARKS, ("zero", "even", "large", "never")),
    "value": (VALUES, ("all", "middle")),
    "none": (LABELS[:ROWS], ()),
}
KEYWORDS = ("--model", "mlp", "--epochs", "4", "--global-batch", "64")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Digits with labels of each kind: folder of train and holdout by kind."""
    root = tmp_path_factory.mktemp("kinds")
    for kind, (labels, names) in SOURCES.items():
        source = ArraySource(PIXELS[:ROWS], labels, names, label_kind=kind)
        pack(source, root / kind, holdout=0 if kind == "none" else 200, shard_rows=100)
    return root


def train(data, tmp_path, kind, *words, name="run", status=0):
    part = "train" if kind != "none" else "."
    held = () if kind == "none" else ("--held-out", data / kind / "holdout")
    given = ("train", data / kind / part, "-o", tmp_path / name, *held, *KEYWORDS, *words)
    return cli_json(tmp_path, *given) if status == 0 else cli(*given, status=status)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_scikit_learns(rows):
    scores, marks = np.array([each for each, _ in rows], np.float32), np.array([each for _, each in rows], np.uint8)
    found = average_precision(scores, marks)
    if not marks.any():
        assert found is None
    else:
        assert found == pytest.approx(100 * average_precision_score(marks, scores))


def test_a_class_that_no_row_has_is_not_counted():
    scores = MarkScores(np.array([[2.0, 1], [1, 2]], np.float32), np.array([[1, 0], [0, 0]], np.uint8))
    assert scores.per_class() == [100.0, None] and scores.metrics() == {"map": 100.0}


def outputs_of(data, kind, run):
    """Outputs and labels of the held-out rows, by a plain pass of the last weights."""
    setup = Setup(data / kind / "train", "mlp", data / kind / "holdout")
    from safetensors.torch import load_file

    model = setup.build(0)
    model.load_state_dict(load_file(run / "last.safetensors"))
    model.eval()
    with torch.no_grad():
        pairs = [(model(batch.images), batch.labels.clone()) for batch in setup.evaluation_loaders()["held_out"]]
    z, y = (torch.cat(each) for each in zip(*pairs, strict=True))
    return z.double(), y.double()


def test_several_classes(data, tmp_path):
    record = train(data, tmp_path, "multi")
    z, y = outputs_of(data, "multi", tmp_path / "run")
    by_class = [100 * average_precision_score(y[:, c], z[:, c]) for c in range(3)]
    result = record["result"]
    assert list(result["classes"].values()) == [pytest.approx(each) for each in by_class] + [None]
    assert result["metrics"] == {"map": pytest.approx(np.mean(by_class))} and result["metric"] == "map"
    assert result["last"] == result["metrics"]["map"] > 70
    history = [each["accuracy"]["held_out"] for each in record["history"]]
    assert record["history"][result["best_epoch"]]["accuracy"]["held_out"] == result["best"] == max(history)
    assert record["history"][-1]["loss"] < record["history"][0]["loss"] < 0.7
    text = train(data, tmp_path, "multi")  # finished: the same again
    assert text["result"] == result
    told = cli(
        "train", data / "multi" / "train", "-o", tmp_path / "run", "--held-out", data / "multi" / "holdout", *KEYWORDS
    )
    assert f"held_out mAP: last epoch {result['last']:.2f} %, best epoch" in told


def test_values(data, tmp_path):
    record = train(data, tmp_path, "value")
    z, y = outputs_of(data, "value", tmp_path / "run")
    error, result = z - y, record["result"]
    assert result["metric"] == "rmse" and list(result["classes"]) == ["all", "middle"]
    assert result["metrics"]["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
    assert result["metrics"]["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-4)
    expected = error.square().mean(0).sqrt().tolist()
    assert list(result["classes"].values()) == [pytest.approx(each, rel=1e-4) for each in expected]
    history = [each["accuracy"]["held_out"] for each in record["history"]]
    assert result["best"] == min(history) < history[0] and history.index(min(history)) == result["best_epoch"]


def test_the_loss_is_torchs(data):
    """The first step's loss is the mean that `torch.nn.functional` gives."""
    for kind, loss in (("multi", F.binary_cross_entropy_with_logits), ("value", F.mse_loss)):
        setup = Setup(data / kind / "train", "mlp", global_batch=500)
        from drawstream.tools.training import train as run

        model, loader = setup.build(0), setup.training_loader()
        (batch,) = loader
        expected = float(loss(model(batch.images), batch.labels.float()).detach())
        assert run(model, loader, Recipe(epochs=1)).history[0].loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("multi", marks=pytest.mark.slow), "value"])
def test_swift_search_and_selective_backprop(data, tmp_path, kind):
    metric, measures = ("map", "loss,entropy") if kind == "multi" else ("rmse", "loss")
    train(data, tmp_path, kind, "--epochs", "1", name="first")
    catalog, table, weights = data / kind / "train", tmp_path / "features", tmp_path / "first" / "best.safetensors"
    cli("features", catalog, "-o", table, "--model", "mlp", "--weights", weights)
    words = ("--held-out", data / kind / "holdout", "--model", "mlp", "--trials", "2", "--features", measures)
    search = ("search", "swift", table, "--catalog", catalog, *words, "--start", weights, "--confirm-top", "0")
    found = cli_json(tmp_path, *search, "-o", tmp_path / "search")
    values = [each["value"] for each in found["trials"]]
    assert all((value < 0) == (kind == "value") for value in values) and len(values) == 2
    assert found["identity"]["objective"]["metric"] == metric
    sampler = ("--sampler", tmp_path / "search" / "sampler.json", "--table", table)
    assert train(data, tmp_path, kind, *sampler, name="swift")["result"]["metric"] == metric
    assert train(data, tmp_path, kind, "--sampler", "sb", "--budget", "0.5", name="sb")["backward"] < 4 * 500
    wrong = cli(*search, "-o", tmp_path / "x", "--objective-metric", "top1", status=2)
    known = "map" if kind == "multi" else "rmse, mae"
    assert f"labels of kind {kind} have {known}, but --objective-metric" in wrong


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [
        ("multi", "p"),
        ("multi", "dlis"),
        ("value", "osgd"),
        *(
            pytest.param(kind, sampler, marks=pytest.mark.slow)
            for kind, sampler in (
                ("multi", "c"), ("multi", "osgd"), ("multi", "rais"), ("multi", "infobatch"),
                ("value", "dlis"), ("value", "rais"), ("value", "infobatch"),
            )
        ),
    ],
)  # fmt: skip
def test_methods_train_on_several_classes_and_on_values(data, tmp_path, kind, sampler):
    record = train(data, tmp_path, kind, "--epochs", "6", "--sampler", sampler, "--budget", "0.5")
    held = [each["accuracy"]["held_out"] for each in record["history"]]  # weights change the scale of losses
    assert (held[-1] > 60 if kind == "multi" else held[-1] < held[0]) and 0 < record["backward"] < 6 * 500


@pytest.mark.parametrize("kind", ["multi", pytest.param("value", marks=pytest.mark.slow)])
def test_a_training_is_tracked(data, tmp_path, kind):
    record = train(data, tmp_path, kind, "--track", tmp_path / "table")
    table = FeatureTable.open(tmp_path / "table")
    table.check(record["catalog_fingerprint"], "here")
    found = table.columns("loss", "seen")
    assert (found["seen"] == 4).all()
    assert found["loss"].mean() == pytest.approx(np.mean([each["loss"] for each in record["history"]]), rel=0.05)
    assert ("forgetting" in table.names) == (kind == "multi")
    weights = ("--sampler", tmp_path / "drop.json", "--table", tmp_path / "table")
    cli("fit", tmp_path / "table", "-o", tmp_path / "drop.json", "--transform", "cdf", "--features", "loss,grad_norm")
    assert train(data, tmp_path, kind, *weights, name="again")["method"] == "swift"
    told = cli("suspects", tmp_path / "table", "--catalog", data / kind / "train", "-o", tmp_path / "s", status=2)
    assert f"labels of kind {kind}, but a list of suspects needs class" in told and told.count("\n") == 1


def test_ordered_sgd_follows_the_share_of_right_rows_and_of_explained_variance(data):
    for kind, outputs, expected in (
        ("multi", lambda y: (2.0 * y - 1) * 3, 100.0),
        ("value", lambda y: y, 100.0),
        ("value", lambda y: y.mean(0).expand_as(y), 0.0),
        ("value", lambda y: -y, 0.0),
    ):
        setup = Setup(data / kind / "train", "mlp", global_batch=500)
        selector = OrderedSGD(batch_size=500)
        chooser = Chooser(selector, setup.build(0), setup.data, Ranks(), global_batch=500)
        (batch,) = setup.training_loader()
        z = outputs(batch.labels.float())
        chooser.judge(Step(batch, 0.0, 0, 500), z, label_losses(z, batch.labels), epoch=0)
        told = []
        selector.set_accuracy = told.append
        chooser.end_epoch()
        assert told == [pytest.approx(expected, abs=0.01)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--augment", "mixup"), "Mixup needs one class of each image, but the labels are of kind"),
        (("--augment", "ricap"), "RICAP needs one class"),
        (("--label-smoothing", "0.1"), "label smoothing is of classes"),
        (("--loss", "mentornet-pd"), "labels of kind .*, but --loss mentornet-pd needs class"),
        (("--loss", "reed-soft"), "labels of kind .*, but --loss reed-soft needs class"),
        (("--sampler", "p", "--budget", "0.5"), "PSGD draws by the probability of the right class, but labels are"),
        (("--sampler", "c", "--budget", "0.5"), r"CSGD draws by .*: take one that goes by the loss .*\(sb, osgd"),
        (("--sampler", "coreset-random", "--budget", "0.5"), "but --sampler coreset-random needs class"),
        (("--sampler", "balanced"), "but --sampler balanced needs class: pack or index it with --label-kind class"),
        (("--sampler", "repeat-factors"), "but --sampler repeat-factors needs class or multi"),
        (("--balance", "0.5"), "but --balance needs class"),
    ],
)
def test_what_needs_classes_is_refused(data, tmp_path, words, text):
    words = [tmp_path / each if each == "features" else each for each in words]
    told = train(data, tmp_path, "value", *words, status=2)
    assert re.search(text, told) and told.count("\n") == 1, told
    assert not (tmp_path / "run").exists()


OWN = '''
import torch
from torch import nn
from torch.nn import functional as F


class Views(nn.Module):
    """Two views of an image, itself and its mirror image, shall be near each other and far from others'."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]  # no part of this module

    def forward(self, outputs, batch, epoch):
        assert batch.labels.shape == (len(batch.ids), 0)
        other = self.model[0](batch.images.flip(-1))
        likeness = F.normalize(outputs, dim=1) @ F.normalize(other, dim=1).T / 0.5
        return F.cross_entropy(likeness, torch.arange(len(likeness)), reduction="none")


class Whole(nn.Module):
    def forward(self, outputs, batch, epoch):
        return outputs.mean()


def function():
    return F.cross_entropy
'''


def test_without_labels_your_own_loss_trains(data, tmp_path, monkeypatch):
    (tmp_path / "own_views.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    record = train(data, tmp_path, "none", "--loss", "own_views:Views")
    losses = [each["loss"] for each in record["history"]]
    assert losses[-1] < losses[0] - 0.3 and "result" not in record
    assert train(data, tmp_path, "none", "--loss", "own_views:Views")["history"] == record["history"]
    for words, text in (
        ((), "the images have no labels, so there is no loss: give your own (--loss module:factory)"),
        (("--loss", "own_views:Whole"), "the loss must give one number for each row, (64,), but gives ()"),
        (("--loss", "own_views:function"), "must give a torch.nn.Module that is called as loss(outputs, batch, epoch)"),
        (("--loss", "own_views:nothing"), "own_views"),
        (("--loss", "reed"), "`loss` must be one of ce, reed-soft"),
        (("--loss", "own_views:Views", "--held-out", data / "multi" / "holdout"), "--label-kind"),
    ):
        assert text in train(data, tmp_path, "none", *words, name="other", status=2)
    sys.modules.pop("own_views", None)


def test_sets_of_another_kind_are_refused(data):
    setup = Setup(data / "multi" / "train", "mlp", data / "value" / "holdout")
    refused("has labels of kind value, but .* of multi: pack both with the same --label-kind", setup.evaluation_loaders)
    model, loader = Setup(data / "none", "mlp").build(0), Setup(data / "none", "mlp").training_loader()
    assert isinstance(model, nn.Module) and model(torch.zeros(1, 1, 8, 8)).shape == (1, 128)
    refused("has no labels, but evaluation needs classes", evaluate, model, loader)
