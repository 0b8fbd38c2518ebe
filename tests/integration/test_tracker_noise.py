"""Wrong labels on digits: losses averaged over training tell them from right ones, those of the last epoch do not."""

import pytest
from scipy.stats import rankdata

from drawstream import Catalog, FeatureTable, IndexStream, LoopParts, Tracker
from drawstream.tools.cli.app import main
from drawstream.tools.jobs import TrainingJob, train_job
from drawstream.tools.training import Setup, train
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.methods import Sampling
from shared.samples import pack_digits

ROWS, EPOCHS = 1000, 24


def auc(score, wrong):
    """Probability that a wrong label scores above a right one."""
    ranks = rankdata(score)[wrong]
    return (ranks.sum() - wrong.sum() * (wrong.sum() + 1) / 2) / (wrong.sum() * (~wrong).sum())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The catalog with 40 % wrong labels, and which they are."""
    root = tmp_path_factory.mktemp("noise")
    clean, noisy = (pack_digits(root / name, ROWS, label_noise=noise).train for name, noise in (("a", 0.0), ("b", 0.4)))
    return noisy, Catalog.open(clean).label != Catalog.open(noisy).label


class Several(list):
    """Trackers that observe one training."""

    grand = False

    def set_epoch(self, epoch):
        for tracker in self:
            tracker.set_epoch(epoch)

    def observe(self, *batch, **more):
        for tracker in self:
            tracker.observe(*batch, **more)

    def reduce(self):
        for tracker in self:
            tracker.reduce()


def test_averages_separate_wrong_labels(data, one_thread):
    noisy, wrong = data
    assert wrong.mean() == pytest.approx(0.4, abs=0.01)
    setup = Setup(noisy, "mlp", global_batch=32)
    loader = setup.training_loader()
    loader.replace_stream(IndexStream(ROWS, seed=0))
    trackers = Several([Tracker(ROWS), Tracker(ROWS, until=10), Tracker(ROWS, since=EPOCHS - 1)])
    train(setup.build(0), loader, Recipe(EPOCHS, 0.05), parts=LoopParts(tracker=trackers))
    averaged, early, last = (auc(tracker.columns()["loss"], wrong) for tracker in trackers)
    assert averaged > 0.97 and early > 0.98
    assert last < averaged - 0.05


def test_tracked_training_from_the_command_line(data, tmp_path, capsys):
    noisy, _ = data
    out, table = tmp_path / "run", tmp_path / "features"
    command = ["train", str(noisy), "-o", str(out), "--model", "mlp", "--epochs", "6", "--track", str(table)]
    assert main(command) == 0
    scored = FeatureTable.open(table)
    assert scored.columns("seen")["seen"].tolist() == [6] * ROWS
    assert main(["fit", str(table), "-o", str(tmp_path / "drop.json"), "--transform", "cdf"]) == 0
    drawn = ["--table", str(table), "--sampler", str(tmp_path / "drop.json")]
    again = [*command[:3], str(tmp_path / "2"), *command[4:6], "--epochs", "1"]
    assert main([*again, *drawn]) == 0
    capsys.readouterr()
    assert main([*again, "--track", str(tmp_path / "f2"), *drawn]) == 2
    assert "started with tracked False, not True: give another output folder" in capsys.readouterr().err


def test_a_search_takes_the_table(data, tmp_path, monkeypatch):
    noisy, _ = data
    train_job(TrainingJob(Setup(noisy, "mlp"), Recipe(3), Sampling(), tmp_path / "run", track=tmp_path / "features"))
    (tmp_path / "my_objective.py").write_text("def score(p, trial):\n    return float(p[:500].sum())\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--catalog", str(noisy), "--objective", "my_objective:score", "--agent", "random", "--trials", "5"]
    assert main(["search", "swift", "features", "-o", "search", *options]) == 0
    assert (tmp_path / "search/sampler.json").exists()


def test_a_killed_training_tracks_as_an_undisturbed_one(data, tmp_path, one_thread):
    setup = Setup(data[0], "mlp", global_batch=250)

    def go(checkpoint, stop=None):
        class StopError(Exception):
            pass

        def on_epoch(epoch):
            if epoch.epoch == stop:
                raise StopError

        tracker, loader = Tracker(ROWS), setup.training_loader()
        try:
            train(
                setup.build(0),
                loader,
                Recipe(4),
                parts=LoopParts(tracker=tracker),
                checkpoint=checkpoint,
                on_epoch=on_epoch,
            )
        except StopError:
            return None
        return tracker.state_dict()["tensors"]

    whole = go(None)
    assert go(tmp_path / "c.pt", stop=1) is None
    resumed = go(tmp_path / "c.pt")
    assert all(value.equal(whole[name]) for name, value in resumed.items())
    with pytest.raises(ValueError, match="rows 1000, but here it is 9"):
        train(
            setup.build(0),
            setup.training_loader(),
            Recipe(4),
            parts=LoopParts(tracker=Tracker(9)),
            checkpoint=tmp_path / "c.pt",
        )
    train(setup.build(0), setup.training_loader(), Recipe(1), checkpoint=tmp_path / "untracked.pt")
    with pytest.raises(ValueError, match="started with tracked False, not True"):
        train(
            setup.build(0),
            setup.training_loader(),
            Recipe(1),
            parts=LoopParts(tracker=Tracker(ROWS)),
            checkpoint=tmp_path / "untracked.pt",
        )
