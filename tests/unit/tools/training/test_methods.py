"""Methods of budgeted training by name: what they draw, for how many epochs, and what is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drawstream import FeatureTable
from drawstream.pipeline.images import RICAP, Mixup
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.schedule import write_schedule
from drawstream.tools.cli.app import main
from drawstream.tools.training.methods.plan import Budget, Inputs, TrainingPlan
from drawstream.tools.training.methods.table import METHODS, Method, add_method, guide_table, method_names
from drawstream.tools.training.setup import AUGMENT, Framing, Setup
from shared.refusals import refused

ROWS, EPOCHS = 1000, 10
BALANCED = ("balanced", "effective-number", "progressive", "deferred", "repeat-factors")
CORESETS = ("coreset-random", "coreset-forgetting", "coreset-el2n", "coreset-column", "coreset-k_center")


def made(name, share=0.3, seed=4, **options):
    values = np.random.default_rng(0).random((ROWS, 3)).astype(np.float32)
    inputs = Inputs(
        name=name,
        rows=ROWS,
        epochs=EPOCHS,
        budget=Budget(share, **options),
        seed=seed,
        labels=lambda: np.arange(ROWS) % 10,
        column=lambda name: values[:, len(name) % 3],
        chosen=None if name == "rho" else "loss",
        embeddings=lambda: values,
    )
    return METHODS[name].plan(inputs)


@pytest.mark.parametrize(
    ("name", "draws", "epochs"),
    [
        *((name, 300, 10) for name in ("unif", "p", "c", "rais", "soft-cap", *CORESETS, *BALANCED)),
        *((name, 1000, 3) for name in ("scan", "infobatch", "osgd")),
        *(("sb", 1000, 10), ("dlis", 900, 10), ("rho", 3000, 10)),
    ],
)
def test_draws_and_epochs_of_a_budget(name, draws, epochs):
    found = made(name)
    assert (len(found.stream.epoch(0)), found.epochs) == (draws, epochs)
    assert found.forward == (ROWS if name == "coreset-k_center" else 0)
    assert made(name).stream.fingerprint == found.stream.fingerprint
    assert made(name, seed=5).stream.fingerprint != found.stream.fingerprint
    np.testing.assert_array_equal(made(name).stream.epoch(0)[:], found.stream.epoch(0)[:])


def test_ordered_sgd_may_spend_its_budget_on_all_epochs():
    found = made("osgd", full_epochs=True)
    assert (len(found.stream.epoch(0)), found.epochs, found.parts.selector.batch_size) == (300, 10, 128)


def test_variants_of_importance():
    learner = made("p", smoothing=False, last_only=True).parts.learner
    assert (learner.smoothing, learner.last_only) == (False, True)
    plan = made("rais", uniform_epochs=3)
    assert plan.parts.learner.uniform_epochs == 3 and plan.parts.weighted


def test_el2n_keeps_the_rows_of_the_largest_error():
    values = np.random.default_rng(0).random((ROWS, 3)).astype(np.float32)[:, len("el2n") % 3]
    assert set(made("coreset-el2n").stream.epoch(0)[:]) == set(np.argsort(-values)[:300])


def test_soft_cap_reads_a_column_in_standard_deviations():
    learner = made("soft-cap", fall=0.5).parts.learner
    assert learner.fall == 0.5 and learner.scores.std() == pytest.approx(1)
    assert made("soft-cap").parts.learner.fall == 1


def test_every_name_of_the_table_has_a_plan():
    assert all(made(name).epochs for name in method_names())
    assert all(method.builder() for method in METHODS.values() if method.build)


def test_the_types_of_an_entry_can_be_read():
    assert set(get_type_hints(Method)) >= {"build", "given", "options"}


def test_the_guide_has_the_table():
    assert guide_table() in (Path(__file__).parents[4] / "docs/budget.md").read_text(encoding="utf-8")


def test_a_method_from_outside_is_one_entry(run, tmp_path, capsys, monkeypatch):
    def every_second(inputs):
        weights = np.arange(inputs.rows) % 2
        return TrainingPlan(IndexStream(weights, mode="subset", draws=inputs.draws, seed=inputs.seed), inputs.epochs)

    monkeypatch.setitem(METHODS, "second", None)  # takes it out again
    del METHODS["second"]
    add_method(Method(name="second", help="every second row", build=every_second))
    assert made("second").stream.epoch(0)[:].max() % 2 == 1
    assert run("--sampler", "second", "--budget", 0.4) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["method"] == "second" and record["forward"] == 400
    assert record["count_entropy"] <= np.log(250)
    assert run("--sampler", "second", "--paper", out="other") == 2
    assert "--paper goes with p or c, but --sampler is second" in capsys.readouterr().err
    refused("there is a method 'second' already", add_method, METHODS["second"])


@pytest.mark.parametrize("name", ["unif", "p"])
def test_an_epoch_of_part_of_the_rows_has_no_row_twice(name):
    stream = made(name).stream
    epochs = [stream.epoch(epoch)[:] for epoch in range(3)]
    assert all(len(np.unique(rows)) == 300 for rows in epochs)
    assert len(np.unique(np.concatenate(epochs))) > 550  # 657 expected of three independent draws


@pytest.mark.parametrize("name", CORESETS)
def test_a_core_set_is_the_same_rows_in_new_orders(name):
    stream = made(name).stream
    first, second = (stream.epoch(epoch)[:] for epoch in (0, 1))
    assert len(np.unique(first)) == 300 and set(first) == set(second) and not np.array_equal(first, second)


def test_the_smallest_budget_is_one_row_and_one_epoch():
    assert len(made("unif", 1e-9).stream.epoch(0)) == 1
    assert made("scan", 1e-9).epochs == 1


@pytest.mark.parametrize(("share", "options"), [(0.0, {}), (1.01, {}), (float("nan"), {})])
def test_a_budget_out_of_range_is_refused(share, options):
    refused("0 < budget <= 1", Budget, share, **options)


@pytest.mark.parametrize("augment", AUGMENT)
def test_augmentation_is_of_training_images_only(digits, augment):
    setup = Setup(digits.train, "mlp", digits.held_out, digits.test, augment=augment)
    training, evaluation = setup.transforms
    assert evaluation == Setup(digits.train, "mlp").transforms[1] and evaluation.crop == "none" and not evaluation.flip
    assert training.crop == ("none" if augment == "none" else "pad") and training.flip == (augment != "none")
    assert training.randaugment == ((2, 4) if augment.startswith("randaugment") else None)
    assert training.suite == ("bt" if augment == "randaugment-bt" else None)
    mix = setup.mix(7)
    assert (mix is None) == (augment not in ("mixup", "ricap"))
    assert mix is None or (mix.seed == 7 and (mix.alpha if augment == "mixup" else mix.beta) == 0.3)


def test_geometry_is_as_asked_for(digits):
    def transforms(augment="standard", **framing):
        return Setup(digits.train, "mlp", augment=augment, framing=Framing(**framing)).transforms

    plain, evaluation = transforms()
    svhn, _ = transforms(flip=False)
    assert plain.flip and not svhn.flip and replace(svhn, flip=True) == plain
    pad, whole = transforms(size=84, crop="pad")  # of mini-ImageNet
    assert (pad.size, pad.crop, pad.pad, whole.size, whole.crop) == ((84, 84), "pad", 4, (84, 84), "none")
    random, centre = transforms(size=84)
    assert (random.size, random.crop, centre.crop, centre.resize) == ((84, 84), "random", "center", 96)
    assert transforms(size=84, flip=False, augment="none")[0].flip is False
    small, _ = transforms(crop="random")
    assert (small.size, small.crop) == ((8, 8), "random")
    coloured, still = transforms(jitter=(0.4, 0.3, 0.0, 0.0))
    assert coloured.jitter == (0.4, 0.3, 0.0, 0.0) and still == evaluation
    for wrong, text in (({"jitter": (0.4,)}, "`jitter` must be 4 ranges"), ({"size": 0}, "`size >= 1` must hold")):
        refused(text, Framing, **wrong)


def test_geometry_at_the_command_line(run, tmp_path):
    options = ("--augment", "standard", "--size", "12", "--no-flip", "--jitter", ".4,.4,0,0", "--crop", "pad")
    assert run(*options, "--model", "wrn-28-2", epochs=1) == 0
    transform = json.loads((tmp_path / "run/run.json").read_text())["transform"]
    found = {name: transform[name] for name in ("size", "crop", "flip", "jitter")}
    assert found == {"size": [12, 12], "crop": "pad", "flip": False, "jitter": [0.4, 0.4, 0.0, 0.0]}


def test_the_papers_order_of_mixing(digits):
    mixup, ricap = (Setup(digits.train, "mlp", augment=name, mix_order="paper") for name in ("mixup", "ricap"))
    assert mixup.mix(0) == Mixup() and mixup.mix(0, selected=True) == Mixup(larger=True)
    assert ricap.mix(0) == ricap.mix(0, selected=True) == RICAP(permuted=True)


def test_another_augmentation_is_refused(digits):
    with pytest.raises(ValueError, match=r"`augment` must be one of none, standard, .* but got 'cutout'"):
        Setup(digits.train, "mlp", augment="cutout")


def record(path, *, epochs, catalog):
    stream = IndexStream(500, seed=0)
    write_schedule(path, [stream.epoch(epoch) for epoch in range(epochs)], rows=500, catalog=catalog)


@pytest.fixture
def run(digits, tmp_path):
    def go(*options, out="run", epochs=2):
        base = ["train", digits.train, "-o", tmp_path / out, "--model", "mlp", "--global-batch", 50, "--epochs", epochs]
        return main([str(part) for part in (*base, *options)])

    return go


def test_unif_at_the_full_budget_is_uniform_training(run, tmp_path):
    assert run(out="a") == run("--sampler", "unif", out="b") == 0
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in "ab"]
    assert [record["method"] for record in records] == ["uniform", "unif"]
    assert records[0]["stream"] == records[1]["stream"]


def test_a_schedule_of_a_uniform_run_trains_as_that_run(run, digits, tmp_path):
    record(tmp_path / "s.arrow", epochs=2, catalog=Catalog.open(digits.train).fingerprint)
    assert run(out="a") == run("--sampler", tmp_path / "s.arrow", out="b") == 0
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_weights_in_a_file_are_drawn_from(run, tmp_path):
    weights = np.zeros(500)
    weights[:200] = 1
    np.save(tmp_path / "w.npy", weights)
    assert run("--sampler", tmp_path / "w.npy", "--budget", 0.4) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["method"] == "weights" and record["forward"] == record["backward"] == 400
    assert record["count_entropy"] == pytest.approx(np.log(200))  # each of them twice
    assert record["effective_budget"] == pytest.approx(0.4)


def test_a_tracked_training_gives_core_sets_and_soft_caps(run, tmp_path):
    assert run("--track", tmp_path / "tracked", "--track-grand", "--accumulate", 2, out="full") == 0
    table = FeatureTable.open(tmp_path / "tracked")
    columns = table.columns("el2n", "grand", "grad_norm")
    np.testing.assert_array_equal(columns["el2n"], columns["grad_norm"])  # all epochs are early ones
    assert (columns["grand"] > columns["el2n"]).all()
    given = ("--table", tmp_path / "tracked", "--budget", 0.4)
    assert run("--sampler", "coreset-el2n", *given, out="core") == 0
    assert run("--sampler", "coreset-column", "--column", "el2n", *given, out="column") == 0
    assert run("--sampler", "soft-cap", "--column", "grand", "--fall", 9, *given, out="cap") == 0
    found = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in ("core", "column", "cap")}
    assert found["core"]["count_entropy"] == found["column"]["count_entropy"] == pytest.approx(np.log(200))
    assert found["cap"]["count_entropy"] == pytest.approx(np.log(400), abs=0.05)  # hardly a row twice


def test_a_finished_run_of_another_budget_is_refused(run, capsys):
    assert run("--sampler", "p", "--budget", 0.5) == 0
    assert run("--sampler", "p", "--budget", 0.5) == 0
    for other in (("--sampler", "c", "--budget", 0.5), ("--sampler", "p", "--budget", 0.5, "--augment", "mixup")):
        assert run(*other) == 2
        assert "this job was started with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampler", "pp"), "the sampler must be a file or one of unif"),
        (("--sampler", "unif", "--budget", "0"), "`0 < budget <= 1` must hold, but got 0"),
        (("--sampler", "sb", "--paper"), "--paper goes with p or c, but --sampler is sb: leave it out"),
        (("--uniform-epochs", "2"), "--uniform-epochs goes with p, c or rais, but there is none: leave it out"),
        (("--sampler", "sb", "--no-smoothing"), "--no-smoothing goes with p or c, but --sampler is sb: leave it out"),
        (("--sampler", "scan", "--last-only"), "--last-only goes with p or c, but --sampler is scan: leave it out"),
        (("--sampler", "p", "--last-only", "--paper"), "`paper` divides by all epochs, and `last_only` takes one"),
        (("--sampler", "sb", "--full-epochs"), "--full-epochs goes with osgd, but --sampler is sb: leave it out"),
        (("--small-stem",), "--small-stem goes with --model timm:NAME, but got 'mlp': leave it out"),
        (("--mix-order", "paper"), "`mix_order` must be default, or paper with the augmentation mixup or ricap"),
        (("--sampler", "coreset-forgetting"), "needs a feature table with a column forgetting: give --table"),
        (("--sampler", "coreset-el2n"), "needs a feature table with a column el2n: give --table"),
        (("--sampler", "soft-cap"), "soft-cap reads a column of the --table: name it with --column"),
        (("--sampler", "p", "--fall", "2"), "--fall goes with soft-cap, but --sampler is p: leave it out"),
        (("--track-grand",), "--track-grand adds a column to a tracked table: give --track too"),
        (("--sampler", "rho"), "needs a feature table with a column loss: give --table"),
        (("--sampler", "rho", "--column", "clean"), "needs a feature table with a column clean"),
        (("--sampler", "w.npy"), "w.npy has 3 weights, the catalog 500 images: give one each, in catalog order"),
        (("--sampler", "s.arrow"), "a schedule replays only on its own catalog"),
        (("--sampler", "own.arrow"), "holds 1 epochs, but --epochs is 2"),
        (("--sampler", "own.arrow", "--budget", "0.5", "--epochs", "1"), "a schedule fixes what is drawn"),
        (("--augment", "cutout"), "cutout"),
    ],
)
def test_what_does_not_fit_is_one_line(run, digits, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", np.ones(3))
    record("s.arrow", epochs=2, catalog="another")
    record("own.arrow", epochs=1, catalog=Catalog.open(digits.train).fingerprint)
    assert run(*options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
