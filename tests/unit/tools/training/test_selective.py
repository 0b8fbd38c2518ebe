"""Methods in the training loop: what is chosen, what its gradient is, what is counted, and that runs resume exactly."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from typer.testing import CliRunner

from drawstream.pipeline.images import RICAP, Mixup
from drawstream.samplers.methods import DLIS, PSGD, OrderedSGD, RHOLoss, SelectiveBackprop
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.swift import SwiftFit, SwiftParams
from drawstream.tools.cli.app import app
from drawstream.tools.training.descent import Descent
from drawstream.tools.training.loop import Evaluation, Recipe, train
from drawstream.tools.training.methods.plan import Budget, Inputs, LoopParts
from drawstream.tools.training.methods.robust import LearnedWeights, Reed, SelfPaced
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.setup import Setup

ROWS = 500


class StopError(Exception):
    pass


@pytest.fixture
def setup(digits):
    return Setup(digits.train, "mlp", global_batch=50)


def planned(name, share=0.5, epochs=4, seed=3):
    inputs = Inputs(
        name=name,
        rows=ROWS,
        epochs=epochs,
        budget=Budget(share),
        seed=seed,
        global_batch=50,
        column=lambda _: np.linspace(0, 2, ROWS),
    )
    return METHODS[name].plan(inputs)


def go(setup, stream, parts, recipe, **options):
    """A run and its model; parts may be made from the model."""
    loader = setup.training_loader()
    loader.replace_stream(stream)
    model = setup.build(recipe.seed)
    run = train(model, loader, recipe, parts=parts(model) if callable(parts) else parts, **options)
    loader.close()
    return run, model


def by(selector, spy=None, **more):
    return LoopParts(spy, selector, global_batch=50, **more)


def assert_close(model, other):
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def hot(selector):
    """DLIS that is on from the start."""
    selector.gain = 1e6
    return selector


def stop_after(epochs):
    def on_epoch(epoch):
        if epoch.epoch + 1 == epochs:
            raise StopError

    return on_epoch


class Spy:
    """A learner that keeps what it is shown."""

    def __init__(self):
        self.seen, self.ends = [], 0

    def observe(self, *batch):
        self.seen.append([value.detach().clone() for value in batch])

    def reduce(self, total=None):
        assert total is None
        self.ends += 1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


OTHERS = {
    "mixup": lambda *_: LoopParts(mix=Mixup(seed=1)),
    "paced": lambda *_: LoopParts(criterion=SelfPaced(decay=0.99)),
    "l2rw": lambda model, trusted: LoopParts(criterion=LearnedWeights(model, *trusted, batch_size=32, seed=1)),
}


@pytest.mark.parametrize("name", ["unif", "p", "c", "infobatch", "sb", "osgd", "dlis", "dlis-on", "rho", *OTHERS])
def test_a_stopped_run_goes_on_to_the_same_weights(digits, tmp_path, name):
    setup = Setup(digits.train, "mlp", digits.held_out, global_batch=50)
    sets = setup.evaluation_loaders()
    batch = next(iter(sets["held_out"]))

    def start():
        found = planned("unif" if name in OTHERS else name.removesuffix("-on"), 0.7, epochs=5)
        if name == "dlis-on":
            hot(found.parts.selector)
        make = OTHERS.get(name)
        parts = found.parts if make is None else lambda model: make(model, (batch.images, batch.labels))
        return setup, found.stream, parts, Recipe(found.epochs, 0.1, seed=3)

    def full(**options):
        return go(*start(), evaluation=Evaluation(sets), **options)

    whole, expected = full()
    with pytest.raises(StopError):
        full(checkpoint=tmp_path / "c.pt", on_epoch=stop_after(2))
    resumed, model = full(checkpoint=tmp_path / "c.pt")
    told = [[(e.loss, e.forward, e.backward, e.accuracy) for e in run.history] for run in (resumed, whole)]
    assert told[0] == told[1] and torch.equal(resumed.counts, whole.counts)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(value, resumed.best_state[key]) for key, value in whole.best_state.items())


@pytest.mark.parametrize(("first", "then"), [("p", "unif"), ("unif", "p"), ("p", "c"), ("sb", "osgd"), ("sb", "unif")])
def test_a_checkpoint_of_another_method_is_refused(setup, tmp_path, first, then):
    def start(name):
        found = planned(name)
        return found.stream, found.parts, Recipe(4)

    with pytest.raises(StopError):
        go(setup, *start(first), checkpoint=tmp_path / "c.pt", on_epoch=stop_after(1))
    with pytest.raises(ValueError, match=r"this job was started with .*(learner|selector)\..* give another output"):
        go(setup, *start(then), checkpoint=tmp_path / "c.pt")


def test_p_draws_an_epoch_by_what_all_epochs_before_showed(setup):
    learner, again = PSGD(ROWS), PSGD(ROWS)
    shown = []
    observe = learner.observe
    learner.observe = lambda *batch: shown.append([v.detach().clone() for v in batch]) or observe(*batch)
    stream = IndexStream(learner, mode="subset", draws=200, seed=3)
    go(setup, stream, LoopParts(learner), Recipe(3, 0.1))
    expected = IndexStream(again, mode="subset", draws=200, seed=3)
    assert len(shown) == 3 * 4
    for epoch in range(3):
        batches = shown[4 * epoch : 4 * epoch + 4]
        np.testing.assert_array_equal(torch.cat([batch[0] for batch in batches]), expected.epoch(epoch)[:])
        for batch in batches:
            again.observe(*batch)
        again.reduce()


def test_selective_backprop_at_the_full_budget_is_uniform_training(setup):
    stream = IndexStream(ROWS, seed=3)
    plain, expected = go(setup, stream, LoopParts(), Recipe(3, 0.1))
    run, model = go(setup, stream, by(SelectiveBackprop(budget=1.0)), Recipe(3, 0.1))
    assert_close(model, expected)
    assert (run.forward, run.backward) == (2 * plain.forward, plain.backward) == (3000, 1500)


def test_selective_backprop_trains_on_full_batches_and_on_the_rest_of_an_epoch(setup):
    selector, spy = SelectiveBackprop(budget=0.4, seed=2), Spy()
    kept = []
    select = selector.select
    selector.select = lambda scores, **given: kept.append((given["ids"], select(scores, **given))) or kept[-1][1]
    stream = IndexStream(ROWS, seed=3)
    run, _ = go(setup, stream, by(selector, spy), Recipe(3, 0.05))
    chosen = [np.concatenate([ids[found.indices] for ids, found in kept[at : at + 10]]) for at in (0, 10, 20)]
    sizes = [[50] * (len(rows) // 50) + [len(rows) % 50] * (len(rows) % 50 > 0) for rows in chosen]
    assert [len(batch[0]) for batch in spy.seen] == [*sizes[0], *sizes[1], *sizes[2]]
    assert min(sizes[1][-1], sizes[2][-1]) < 50
    trained = torch.cat([batch[0] for batch in spy.seen]).numpy()
    np.testing.assert_array_equal(trained, np.concatenate(chosen))
    assert [epoch.forward - epoch.backward for epoch in run.history] == [ROWS] * 3
    assert run.backward == len(trained)
    np.testing.assert_array_equal(run.counts, np.bincount(trained, minlength=ROWS))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_effective_budget_of_selective_backprop_is_a_third_more(setup, share):
    selector = SelectiveBackprop(budget=share, seed=2)
    method = by(selector)
    run, _ = go(setup, IndexStream(ROWS, seed=3), method, Recipe(21, 1e-6))  # losses of one law
    later = run.history[1:]  # the first epoch keeps all rows
    spent = sum(epoch.forward + 2 * epoch.backward for epoch in later) / (3 * ROWS * len(later))
    assert spent == pytest.approx(share + 1 / 3, abs=0.015)
    first = run.history[0]
    assert first.forward + 2 * first.backward == 4 * ROWS


def test_ordered_sgd_descends_the_largest_losses(setup):
    selector = OrderedSGD()
    selector.set_accuracy(85)
    stream, recipe = IndexStream(ROWS, seed=3), Recipe(2, 0.05)
    run, model = go(setup, stream, by(selector), recipe)
    by_hand, loader = setup.build(0), setup.training_loader()
    loader.replace_stream(stream)
    descent, step, counts = Descent(by_hand, recipe), 0, np.zeros(ROWS, np.int64)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            losses = F.cross_entropy(by_hand(batch.images), batch.labels, reduction="none")
            largest, places = losses.topk(25)
            np.add.at(counts, batch.ids[places].numpy(), 1)
            descent.descend(largest.mean(), recipe.lr_at(step, 20))
            step += 1
    assert_close(model, by_hand)
    np.testing.assert_array_equal(run.counts, counts)
    assert (run.forward, run.backward) == (1000, 1000)  # all rows of a batch go back through the model


def test_ordered_sgd_is_told_the_accuracy_of_its_training_passes(setup):
    selector, spy, told = OrderedSGD(), Spy(), []
    selector.set_accuracy = told.append
    go(setup, IndexStream(ROWS, seed=3), by(selector, spy), Recipe(2, 0.05))
    right = [float((logits.argmax(1) == labels).float().mean()) for _, logits, labels, _ in spy.seen]
    assert told == pytest.approx([100 * np.mean(right[:10]), 100 * np.mean(right[10:])], abs=1e-4)
    assert told[1] > told[0] > 5


def test_dlis_trains_as_many_steps_whether_on_or_off(setup):
    stream = IndexStream(ROWS, seed=3, draws=3 * 250)
    off, _ = go(setup, stream, by(DLIS()), Recipe(2, 1e-6))
    assert (off.forward, off.backward) == (500, 500)
    assert int(off.counts.max()) <= 2
    on, _ = go(setup, stream, by(hot(DLIS())), Recipe(2, 1e-6))
    assert (on.forward, on.backward) == (2 * (750 + 250), 500)
    assert int(on.counts.sum()) == 500


def test_rho_trains_on_what_is_above_its_irreducible_loss(setup):
    irreducible = np.full(ROWS, 1e3)
    irreducible[::10] = -1e3  # half as many as are chosen
    selector = RHOLoss(irreducible, factor=5)
    run, _ = go(setup, IndexStream(ROWS, seed=3, draws=1000), by(selector), Recipe(2))
    assert (run.forward, run.backward) == (2 * (1000 + 200), 400)
    assert run.counts[::10].tolist() == [4] * 50  # whenever they were drawn


def test_a_last_group_that_is_not_full_is_trained_on_too(setup):
    selector = RHOLoss(np.zeros(ROWS), factor=4)
    run, _ = go(setup, IndexStream(ROWS, seed=3), by(selector), Recipe(1))
    assert (run.forward, run.backward) == (500 + 125, 125)  # groups of 200, 200 and 100 rows


def test_infobatch_multiplies_by_its_weights_and_shortens_epochs(setup):
    found = planned("infobatch", 1.0, epochs=8)
    run, _ = go(setup, found.stream, found.parts, Recipe(8, 0.1))
    assert run.history[0].forward == run.history[7].forward == ROWS  # nothing known; then the last epochs are full
    assert all(200 < epoch.forward < 450 for epoch in run.history[1:7])

    class Twice:  # a stream whose weights are 2
        def __init__(self, stream):
            self.stream, self.rows, self.seed, self.fingerprint = stream, ROWS, 3, "twice"

        def epoch(self, epoch):
            order = self.stream.epoch(epoch)
            parts = {"__len__": lambda _: ROWS, "__getitem__": lambda _, at: order[at]}
            return type("Order", (), parts | {"weights": lambda _, a, b: np.full(b - a, 2, np.float32)})()

    stream = IndexStream(ROWS, seed=3)
    once, twice = (Recipe(1, lr, "constant", momentum=0.0, weight_decay=0.0) for lr in (0.01, 0.02))
    _, doubled = go(setup, Twice(stream), LoopParts(weighted=True), once)
    _, expected = go(setup, stream, LoopParts(), twice)
    assert_close(doubled, expected)


@pytest.mark.parametrize("schedule", ["linear", "step"])
def test_the_learning_rate_follows_the_budgeted_run(setup, schedule):
    for name, share in (("scan", 0.5), ("infobatch", 1.0), ("p", 0.3), ("sb", 0.3), ("rho", 0.3)):
        found = planned(name, share, epochs=6)
        recipe = Recipe(found.epochs, 0.1, schedule)
        run, _ = go(setup, found.stream, found.parts, recipe)
        for epoch in run.history:  # at its last step, one of at most ten
            ends = [recipe.lr_at(100 * epoch.epoch + part, 100 * found.epochs) for part in (100, 50)]
            assert ends[0] <= epoch.lr <= ends[1], (name, epoch)
        if schedule == "step":
            thirds = [epoch.lr for epoch in run.history][:: max(1, found.epochs // 3)]
            assert thirds == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize("mix", [Mixup(seed=5), RICAP(seed=5)])
def test_learners_see_the_mixed_image_and_the_label_of_the_row(setup, mix):
    spy, recipe = Spy(), Recipe(1, 0.05)
    run, model = go(setup, IndexStream(ROWS, seed=3), LoopParts(spy, mix=mix), recipe)
    by_hand, loader = setup.build(0), setup.training_loader()
    loader.replace_stream(IndexStream(ROWS, seed=3))
    descent, losses = Descent(by_hand, recipe), []
    for step, (batch, seen) in enumerate(zip(loader, spy.seen, strict=True)):
        mixed = mix(batch.images, batch.labels, epoch=0, step=step)
        logits = by_hand(mixed.images)
        ids, shown, labels, _ = seen
        assert torch.equal(ids, batch.ids) and torch.equal(labels, batch.labels)
        assert torch.equal(labels, mixed.labels[:, 0])
        torch.testing.assert_close(shown, logits)
        loss = mixed.loss(logits)
        losses.append(loss.item())
        descent.descend(loss, recipe.lr_at(step, 10))
    assert spy.ends == 1 and run.history[0].loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert_close(model, by_hand)


def test_a_loss_of_one_label_refuses_mixed_images(setup):
    with pytest.raises(ValueError, match=r"Reed\(soft, beta=0.95\) judges rows of one label, but Mixup"):
        go(setup, IndexStream(ROWS), LoopParts(mix=Mixup(), criterion=Reed("soft")), Recipe(1))


def test_selectors_score_images_that_are_not_mixed(setup):
    scores = {}
    for mix in (None, Mixup(seed=1)):
        selector = SelectiveBackprop(budget=0.5)
        select = selector.select
        selector.select = lambda given, mix=mix, select=select, **rest: (
            scores.setdefault(mix, given.copy()) is None or select(given, **rest)
        )
        method = by(selector, mix=mix)
        go(setup, IndexStream(ROWS, seed=3), method, Recipe(1))
    np.testing.assert_array_equal(*scores.values())  # of the first step, before any gradient


class Linear(torch.nn.Module):
    """A model whose logits show the image: scores of any image are known."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(64, 10)

    def forward(self, images):
        return self.head(images.flatten(1))


@pytest.mark.parametrize("name", ["sb", "rho", "dlis"])
@pytest.mark.parametrize(
    "mix", [Mixup(seed=5, larger=True), RICAP(seed=5, permuted=True)], ids=lambda m: type(m).__name__
)
def test_in_the_papers_order_the_mixed_image_is_scored_and_trained_on(setup, name, mix):
    """All scores by hand, and what was chosen: images, labels and shares as they were mixed."""
    selector = {"sb": SelectiveBackprop(budget=0.5), "rho": RHOLoss(np.zeros(ROWS), factor=2), "dlis": hot(DLIS())}[
        name
    ]
    scored, select = [], selector.select
    selector.select = lambda scores, **given: scored.append(scores.copy()) or select(scores, **given)
    stream, loader = IndexStream(ROWS, seed=3, draws=ROWS // selector.factor * selector.factor), setup.training_loader()
    loader.replace_stream(stream)
    torch.manual_seed(2)
    model, shown = Linear(), []
    model.register_forward_pre_hook(lambda _, given: shown.extend(given) if model.training else None)
    head = torch.nn.Linear(64, 10)
    head.load_state_dict(model.head.state_dict())
    recipe = Recipe(1, 1e-9, momentum=0.0, weight_decay=0.0)
    run = train(model, loader, recipe, parts=by(selector, mix=mix, mix_first=True))
    loader.set_epoch(0)
    rows = {"images": [], "score": [], "loss": []}
    for number, batch in enumerate(loader):
        mixed = mix(batch.images, batch.labels, epoch=0, step=number)
        logits = head(mixed.images.flatten(1)).detach()
        error = logits.softmax(1) - mixed.soft_labels(10)
        loss = mixed.loss(logits, reduction="none")
        rows["score"].append(error.norm(dim=1) if name == "dlis" else loss)
        rows["images"].append(mixed.images)
        rows["loss"].append(loss)
    found = {key: torch.cat(value) for key, value in rows.items()}
    np.testing.assert_allclose(np.concatenate(scored), found["score"], rtol=1e-3, atol=1e-5)
    known = {image.numpy().tobytes() for image in found["images"]}
    assert all(image.numpy().tobytes() in known for images in shown for image in images)
    if name == "sb":  # all rows of the first epoch, so the mean of all mixed losses
        assert run.history[0].loss == pytest.approx(float(found["loss"].mean()), rel=1e-4)
    loader.close()


def test_ordered_sgd_takes_at_most_a_short_last_batch(setup):
    selector, spy = OrderedSGD(batch_size=50), Spy()
    selector.set_accuracy(85)
    run, _ = go(setup, IndexStream(ROWS, seed=3, draws=60), by(selector, spy), Recipe(1, 0.05))
    assert [len(batch[0]) for batch in spy.seen] == [50, 10] and int(run.counts.sum()) == 25 + 10


def test_scoring_leaves_batchnorm_alone(setup, digits):
    resnet = Setup(digits.train, "resnet8", global_batch=50)
    selector = RHOLoss(np.zeros(ROWS), factor=2)
    _, model = go(resnet, IndexStream(ROWS, seed=3), by(selector), Recipe(1))
    steps = {int(value) for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    assert steps == {5}  # the training passes, and not the ten that scored


def test_evaluation_is_not_work(digits):
    setup = Setup(digits.train, "mlp", digits.held_out, digits.test, global_batch=50)
    run, _ = go(setup, IndexStream(ROWS), LoopParts(), Recipe(2), evaluation=Evaluation(setup.evaluation_loaders()))
    assert (run.forward, run.backward) == (1000, 1000)
    assert run.effective_budget(2 * ROWS) == 1.0 and run.effective_budget(2 * ROWS, before=300) == 1.1
    assert run.count_entropy == pytest.approx(np.log(ROWS)) and run.counts.tolist() == [2] * ROWS


# `drawstream train --crop-filter`: trained on crops that a sampler chose, as many steps as without


def run(*command):
    result = CliRunner().invoke(app, [str(part) for part in ("train", *command)])
    return result.exit_code, result.output, result.exception


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """A run, and a sampler that wants low losses."""
    out = tmp_path_factory.mktemp("filtering")
    common = (digits.train, "--model", "mlp", "--global-batch", 64, "--augment", "standard")
    assert run(*common, "-o", out / "plain", "--epochs", 2)[0] == 0
    fit = SwiftFit({"loss": np.linspace(1.2, 2.8, 999)}, features=("loss",), mass=None, transform="cdf")
    fit.sampler(SwiftParams((1.0,), (0.5,), (1.0, 0.5, 0.01))).save(out / "sampler.json")
    weights = ("--crop-filter", out / "sampler.json", "--score-weights", out / "plain/last.safetensors")
    return common, weights, out


def test_a_run_on_chosen_crops(plain, digits, tmp_path):
    common, weights, _ = plain
    command = (*common, *weights, "-o", tmp_path / "run", "--epochs", 2, "--crop-factor", 3)
    assert run(*command)[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    filtered = record["filtered"]
    assert filtered["rows_scored"] == 2 * 3 * 500 and filtered["rows_kept"] == 2 * 500 and filtered["batches"] == 2 * 8
    assert filtered["tau_kept"] > filtered["tau_dropped"] and filtered["realised_ratio"] > 1.2
    assert record["crop_filter"]["factor"] == 3 and record["loader"]["images"] == 3000
    assert len(record["history"]) == 2
    before = (tmp_path / "run/run.json").read_bytes()
    assert run(*command)[0] == 0 and (tmp_path / "run/run.json").read_bytes() == before
    code, _, error = run(*common, "-o", tmp_path / "run", "--epochs", 2)
    assert code and "started with global_batch 192, not 64; stream" in str(error)


def test_a_filter_is_known_by_its_contents(plain, tmp_path):
    common, weights, out = plain
    assert run(*common, *weights, "-o", tmp_path / "run", "--epochs", 1)[0] == 0
    other = ("--crop-filter", weights[1], "--score-weights", out / "plain" / "other.safetensors")
    (out / "plain" / "other.safetensors").write_bytes((out / "plain/last.safetensors").read_bytes())
    assert run(*common, *other, "-o", tmp_path / "run", "--epochs", 1)[0] == 0
    state = load_file(out / "plain/last.safetensors")
    save_file({name: value * 2 for name, value in state.items()}, other[3])
    code, _, error = run(*common, *other, "-o", tmp_path / "run", "--epochs", 1)
    assert code and "started with crop_filter.scorer" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop-filter", "s.json"), "give both --crop-filter and --score-weights"),
        (("--score-weights", "w"), "give both"),
        (("--crop-filter", "s.json", "--score-weights", "w", "--crop-factor", 1), "`crop-factor >= 2` must hold"),
    ],
)
def test_options_that_do_not_fit(plain, tmp_path, options, message):
    code, _, error = run(*plain[0], "-o", tmp_path / "run", *options)
    assert code and message in str(error)
