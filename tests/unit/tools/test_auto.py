"""`search auto`: replays to the bit through the training loop; records, refusals, both ways to read images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drawstream import rows_where
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.schedule import Schedule
from drawstream.search.auto import PopulationPlan
from drawstream.tools.jobs import auto as job
from drawstream.tools.jobs.auto import AutoJob, auto_job, source_of
from drawstream.tools.training import Ranks, child
from drawstream.tools.training.child import Kept, Streamed, keep, reward_of
from drawstream.tools.training.evaluation import top1
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods import LoopParts
from drawstream.tools.training.setup import Setup
from shared.programs import cli
from shared.refusals import refused

RECIPE = Recipe(epochs=4, lr=0.05, seed=3)
PLAN = PopulationPlan(500, 2, 32, RECIPE.epochs, interval=6, first=1, permutations=1, seed=RECIPE.seed)


def setup_of(digits, model="mlp", **given):
    return Setup(digits.train, model, **{"held_out": digits.held_out, "global_batch": 32, **given})


def search(setup, out, **options):
    return auto_job(AutoJob(setup, RECIPE, out, PLAN, **options))


def replay(setup, schedule):
    """Weights after training on a recorded schedule."""
    loader = setup.training_loader()
    loader.replace_stream(IndexStream(Schedule.open(schedule, catalog=setup.data.fingerprint), seed=RECIPE.seed))
    model = setup.build(RECIPE.seed)
    train(model, loader, RECIPE, parts=LoopParts(mix=setup.mix(RECIPE.seed)))
    loader.close()
    return model.state_dict()


@pytest.mark.parametrize(
    ("model", "augment"),
    [
        ("mlp", "none"),
        ("resnet8", "none"),  # buffers of the normalisation are cloned, too
        ("mlp", "standard"),  # each draw is transformed anew, by its position in the run
        ("mlp", "mixup"),
        ("mlp", "ricap"),
    ],
)
def test_the_training_loop_replays_a_schedule_to_the_bit(digits, tmp_path, model, augment):
    setup = setup_of(digits, model, augment=augment)
    record = search(setup, tmp_path, reward_rows=60)
    assert len(set(record["winners"])) == 2
    found = load_file(tmp_path / "last.safetensors")
    for name, value in replay(setup, tmp_path / "schedule.arrow").items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["multinomial", "stratified"])
def test_some_rows_are_searched_with_their_classes_more_alike(digits, tmp_path, mode):
    setup = setup_of(digits, augment="standard")
    where = "label < 3 and key != '00000007'"
    kept = rows_where(where, setup.data)
    plan = replace(PLAN, rows=int(kept.sum()), epochs=5, mode=mode)
    record = auto_job(AutoJob(setup, replace(RECIPE, epochs=5), tmp_path, plan, where=where, balance=1.0))
    assert record["where"] == where and record["balance"] == 1.0
    schedule = Schedule.open(tmp_path / "schedule.arrow", catalog=setup.data.fingerprint)
    assert schedule.rows == 500 and schedule.draws == plan.draws
    rows = np.concatenate([schedule.epoch(epoch)[:] for epoch in range(5)])
    assert kept[rows].all()
    assert np.bincount(setup.data.label[rows]) == pytest.approx([rows.size / 3] * 3, rel=0.12)
    settings = {
        "balance 1.0, not 0.5": {"balance": 0.5, "where": where},
        "where": {"balance": 1.0, "where": "label < 3"},
    }
    for told, other in settings.items():
        rest = plan if told != "where" else replace(plan, rows=int((setup.data.label < 3).sum()))
        refused(told, auto_job, AutoJob(setup, replace(RECIPE, epochs=5), tmp_path, rest, **other))


def test_the_record_says_what_was_done(digits, tmp_path):
    setup = setup_of(digits)
    record = search(setup, tmp_path, reward="loss", reward_rows=1000)
    assert record == json.loads((tmp_path / "auto.json").read_text())
    assert record["kind"] == "auto" and record["reward"] == {"kind": "loss", "rows": 100}  # there are no more
    options = {"population": 2, "interval": 6, "first": 1, "permutations": 1, "batch_size": 32}
    assert record["auto"].items() >= options.items() and not record["auto"].keys() & {"rows", "epochs", "seed"}
    assert record["steps"] == [6, 6, 3] * 4  # 500 rows are 15 whole batches
    assert np.shape(record["rewards"]) == (12, 2) and np.max(record["rewards"]) < 0
    assert record["winners"] == np.argmax(record["rewards"], axis=1).tolist()
    assert record["backward"] == 2 * 4 * 15 * 32 and record["forward"] == record["backward"] + 12 * 2 * 100
    assert set(record["seconds"]) == {"train", "evaluate", "wait", "clone", "write", "explore", "checkpoint"}
    schedule = Schedule.open(tmp_path / "schedule.arrow")
    assert schedule.provenance["model"] == "mlp" and schedule.provenance["recipe"]["lr"] == 0.05
    written = ["auto.json", "distribution.parquet", "last.safetensors", "losses", "schedule.arrow"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert record["losses"] == [f"losses/epoch-{epoch}.npy" for epoch in (1, 3, 4)]  # cycles end at 1 and 3
    assert "result" not in record and record["test"] is None
    stamp = (tmp_path / "schedule.arrow").stat().st_mtime_ns
    again = search(setup, tmp_path, reward="loss")
    assert again == record | {"finished_before": True}
    assert (tmp_path / "schedule.arrow").stat().st_mtime_ns == stamp
    refused(r"started with reward.kind 'loss', not 'accuracy': give another output", search, setup, tmp_path)


def test_the_test_set_is_looked_at_once_at_the_end_and_chooses_nothing(digits, tmp_path):
    setup = setup_of(digits, test=digits.test)
    record = search(setup, tmp_path / "tested", reward_rows=60)
    without = search(setup_of(digits), tmp_path / "plain", reward_rows=60)
    assert record["rewards"] == without["rewards"]
    weights = load_file(tmp_path / "tested/last.safetensors")
    model = setup.build(0)
    model.load_state_dict(weights)
    loader = setup.evaluation_loaders()["test"]
    assert record["result"] == {"set": "test", "last": top1(model, loader)}
    losses = np.load(tmp_path / "tested" / record["losses"][-1])
    assert losses.dtype == np.float32 and losses.shape == (500,)
    images, labels = keep(setup.ordered_loader())
    with torch.inference_mode():
        expected = torch.nn.functional.cross_entropy(model.eval()(images), labels, reduction="none")
    np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-5, atol=1e-6)
    refused(r"started with test none, not [0-9a-f]{12}: give", search, setup, tmp_path / "plain", reward_rows=60)


def test_a_killed_job_is_refused_other_settings(digits, tmp_path, monkeypatch):
    def kill(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("drawstream.search.auto.run.write_orders", kill)
    with pytest.raises(KeyboardInterrupt):
        search(setup_of(digits), tmp_path)
    with pytest.raises(ValueError, match=r"started with .*model 'mlp', not 'cnn'; .*give another output folder"):
        search(setup_of(digits, "cnn"), tmp_path)


def test_kept_and_streamed_images_are_the_same(digits):
    setup = setup_of(digits)
    kept = source_of(setup, 0)
    assert isinstance(kept, Kept) and isinstance(source_of(setup_of(digits, augment="standard"), 0), Streamed)
    streamed = Streamed(setup.training_loader(), 32, 15, 0)
    rows = np.random.default_rng(0).integers(0, 500, 96)
    for step in (0, 13):
        pairs = zip(kept.batches(rows, step), streamed.batches(rows, step), strict=True)
        for (images, labels), (others, theirs) in pairs:
            assert torch.equal(images, others) and torch.equal(labels, theirs)


def test_rewards_are_those_of_the_whole_set():
    torch.manual_seed(0)
    model, images, labels = torch.nn.Linear(3, 4), torch.randn(1100, 3), torch.randint(0, 4, (1100,))
    logits = model(images)
    right = 100 * (logits.argmax(1) == labels).double().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert reward_of(model, (images, labels), "accuracy") == pytest.approx(right, rel=1e-12)
    assert reward_of(model, (images, labels), "loss") == pytest.approx(-loss, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "options", "law"),
    [
        ({"held_out": None}, {}, "needs a held-out catalog to take rewards on: give --held-out"),
        ({"test": "train"}, {}, "is the training set itself: give rows that are not trained on"),
        ({}, {"reward_rows": 0}, "`reward_rows >= 1` must hold, but got 0"),
        ({"held_out": "train"}, {}, "is the training set itself: give rows that are not trained on"),
    ],
)
def test_what_cannot_be_searched_is_refused(digits, tmp_path, given, options, law):
    given = {name: getattr(digits, str(value), value) for name, value in given.items()}
    refused(law, lambda: search(setup_of(digits, **given), tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_the_command_searches_and_its_files_are_streams(digits, tmp_path):
    begin = ["search", "auto", digits.train, "--held-out", digits.held_out, "--model", "mlp", "--epochs", 2]
    begin += ["--global-batch", 64, "--interval", 3, "-o", tmp_path / "auto"]
    text = cli(*begin, "--json", tmp_path / "auto.json")
    assert "mixture, 4 children, 6 intervals in" in text and "evaluating on 100 images" in text and "accuracy" in text
    assert json.loads((tmp_path / "auto.json").read_text())["auto"]["first"] == 1
    for name in ("schedule.arrow", "distribution.parquet"):
        assert "500 rows" in cli("stream", "show", tmp_path / "auto" / name)
    plain = [*begin[:-1], tmp_path / "plain", "--exploration", "uniform"]
    assert "uniform, 1 child, 6 intervals" in cli(*plain)
    text = cli(*begin, "--explore-after", 2, status=2)
    assert "--explore-after must be less than --epochs, or the mixture never explores" in text
    assert "'f1' is not one of 'accuracy', 'loss'" in cli(*begin, "--reward", "f1", status=2)


# Children scored twice, in the job of `search auto`


SHORT = Recipe(epochs=2, lr=0.05, seed=3)
SHORT_PLAN = PopulationPlan(500, 2, 32, SHORT.epochs, interval=6, first=1, permutations=1, seed=SHORT.seed)


@pytest.fixture
def short_setup(digits):
    return Setup(digits.train, "mlp", held_out=digits.held_out, global_batch=32)


def search_shortly(short_setup, out, **options):
    return auto_job(AutoJob(short_setup, SHORT, out, SHORT_PLAN, **{"reward_rows": 40, **options}))


def test_second_scores_are_of_the_other_images_and_change_nothing(short_setup, tmp_path):
    once = search_shortly(short_setup, tmp_path / "once")
    twice = search_shortly(short_setup, tmp_path / "twice", second_score=True)
    for name in ("rewards", "winners", "forward", "backward"):
        assert once[name] == twice[name]
    assert once["second_rows"] == 0 and "second_score" not in once
    second = twice["second_score"]
    assert second["rows"] == twice["second_rows"] == 60
    assert np.shape(second["scores"]) == np.shape(twice["rewards"]) == (6, 2)
    assert 0 < second["seconds"] < sum(twice["seconds"].values())
    held = short_setup.evaluation_loaders()["held_out"]
    model = short_setup.build(0)
    model.load_state_dict(load_file(tmp_path / "twice/last.safetensors"))
    whole = 100 * sum(int((model(b.images).argmax(1) == b.labels).sum()) for b in held) / 100
    winner = twice["winners"][-1]  # both parts together are the held-out set
    assert 0.4 * twice["rewards"][-1][winner] + 0.6 * second["scores"][-1][winner] == pytest.approx(whole)
    refused(r"started with second_rows 60, not 0: give another", search_shortly, short_setup, tmp_path / "twice")


def test_a_killed_search_keeps_its_second_scores(short_setup, tmp_path, monkeypatch):
    whole = search_shortly(short_setup, tmp_path / "whole", second_score=True)
    evaluate = child.TwoScores.evaluate

    def killed(self):
        if len(self.scores) == 4:  # in the second epoch
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(child.TwoScores, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        search_shortly(short_setup, tmp_path / "part", second_score=True)
    monkeypatch.setattr(child.TwoScores, "evaluate", evaluate)
    resumed = search_shortly(short_setup, tmp_path / "part", second_score=True)
    assert resumed["second_score"]["scores"] == whole["second_score"]["scores"]
    assert resumed["winners"] == whole["winners"]


def test_what_does_not_go_together_is_refused(short_setup, tmp_path):
    with pytest.raises(ValueError, match="takes all 100: give fewer reward rows"):
        search_shortly(short_setup, tmp_path, reward_rows=1000, second_score=True)
    settings = {"held_out_rows": 9, "reward": {"rows": 3}}
    refused("children of one process: leave out torchrun", lambda: job._second_rows(settings, Ranks(0, 2)))
