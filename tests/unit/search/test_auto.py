"""The population search with children that train in microseconds: what is recorded, cloned, resumed, refused."""

import json
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest

from drawstream import IndexStream, InTurn, OneRank, PopulationPlan, Schedule, map_weights, search_auto
from drawstream.search.auto import children_of
from drawstream.search.auto.run import best_child
from shared.refusals import refused

ROWS, BATCH, EPOCHS, POPULATION = 37, 4, 9, 3  # 9 batches an epoch, one row left out
FEATURES = np.random.default_rng(0).normal(size=(ROWS, 3))
TRUTH = np.array([1.0, -2.0, 0.5])
TARGETS = FEATURES @ TRUTH + np.random.default_rng(1).normal(size=ROWS)
HELD_OUT = np.random.default_rng(2).normal(size=(11, 3))
SMALL = {"population": POPULATION, "batch_size": BATCH, "epochs": EPOCHS, "interval": 4, "first": 2, "permutations": 2}


class Toy:
    """Least squares by momentum; the learning rate falls with the steps done, which are a part of the state."""

    def __init__(self, start=0.0):
        self.steps, self.weights, self.velocity = 0, np.full(3, start), np.zeros(3)
        self.seen = []

    def train(self, rows):
        assert rows.dtype == np.int64 and len(rows) % BATCH == 0
        self.seen.append(rows.tolist())
        for batch in rows.reshape(-1, BATCH):
            x, y = FEATURES[batch], TARGETS[batch]
            self.velocity *= 0.5  # in place, as optimizers do: a state that is shared between children would show
            self.velocity -= x.T @ (x @ self.weights - y) / BATCH * 0.3 / (1 + self.steps)
            self.weights += self.velocity
            self.steps += 1

    def evaluate(self):
        return -float(np.square(HELD_OUT @ (self.weights - TRUTH)).mean())

    def state_dict(self):
        return {"weights": self.weights, "velocity": self.velocity, "steps": self.steps}

    def load_state_dict(self, state):
        self.weights, self.velocity, self.steps = state["weights"], state["velocity"], state["steps"]


class Torched(Toy):
    """The same with tensors in its state, which a checkpoint can hold."""

    def state_dict(self):
        import torch

        return {key: torch.as_tensor(value) for key, value in super().state_dict().items()}

    def load_state_dict(self, state):
        super().load_state_dict({key: value.numpy() if value.ndim else int(value) for key, value in state.items()})


def search(out, *, children=None, **options):
    settings = {**SMALL, **options}
    group = InTurn(children or [Torched() for _ in range(settings["population"])])
    names = {each.name for each in fields(PopulationPlan)}
    plan = PopulationPlan(ROWS, **{name: settings.pop(name) for name in names & settings.keys()})
    return search_auto(group, out, plan, **settings)


def replayed(schedule):
    child = Torched()
    for epoch in range(schedule.epochs):
        child.train(schedule.epoch(epoch)[:])
    return child


@pytest.mark.parametrize("exploration", ["uniform", "random", "mixture"])
def test_replay_gives_the_winners_weights(tmp_path, exploration):
    population = 1 if exploration == "uniform" else POPULATION
    result = search(tmp_path, exploration=exploration, population=population)
    schedule = Schedule.open(result.schedule)
    assert (schedule.rows, schedule.draws, schedule.epochs) == (ROWS, 36, EPOCHS)
    child = replayed(schedule)
    np.testing.assert_array_equal(child.weights, result.state["weights"].numpy())
    np.testing.assert_array_equal(child.velocity, result.state["velocity"].numpy())
    assert child.evaluate() == result.rewards[-1].max()
    assert result.steps.tolist() == [4, 4, 1] * EPOCHS  # the last interval of an epoch ends with it
    assert result.rewards.shape == (3 * EPOCHS, population) and result.winners.shape == (3 * EPOCHS,)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "distribution.parquet",
        "schedule.arrow",
    ]


def test_the_best_is_recorded_and_cloned(tmp_path):
    children = [Torched(start) for start in (0.0, 5.0, -5.0)]  # all start from the first one's weights
    result = search(tmp_path, children=children)
    schedule = Schedule.open(result.schedule)
    recorded = np.concatenate([schedule.epoch(e)[:] for e in range(EPOCHS)]).tolist()
    lone, position = Torched(), 0
    for number, (winner, rewards) in enumerate(zip(result.winners, result.rewards, strict=True)):
        assert winner == rewards.argmax()
        tried = []
        for child in children:  # each trained its own rows from the common state
            twin = Torched()
            twin.load_state_dict({key: value.clone() for key, value in lone.state_dict().items()})
            twin.train(np.array(child.seen[number]))
            tried.append(twin)
        assert [twin.evaluate() for twin in tried] == rewards.tolist()
        lone = tried[winner]
        rows = children[winner].seen[number]
        assert recorded[position : position + len(rows)] == rows
        position += len(rows)
    assert len({tuple(child.seen[0]) for child in children}) == POPULATION
    assert len(set(result.winners.tolist())) > 1


def test_uniform_is_plain_training_and_random_with_one_child(tmp_path):
    uniform = search(tmp_path / "uniform", exploration="uniform", population=1)
    random = search(tmp_path / "random", exploration="random", population=1)
    mine, theirs = Schedule.open(uniform.schedule), Schedule.open(random.schedule)
    assert mine.diff(theirs).first is None
    for epoch in range(EPOCHS):
        assert mine.counts(epoch).max() == 1 and mine.counts(epoch).sum() == 36
    with pytest.raises(ValueError, match=r"uniform exploration is plain training of one child.*population of 2"):
        search(tmp_path / "two", exploration="uniform", population=2)


def test_files_say_where_they_come_from(tmp_path):
    result = search(tmp_path, catalog="abc", provenance={"model": "toy"})
    schedule = Schedule.open(result.schedule, catalog="abc")
    assert schedule.provenance == {
        "rows": ROWS,
        **SMALL,
        "exploration": "mixture",
        "beta": 1.0,
        "count_smoothing": "log_count",
        "estimate": "cycle",
        "mode": "multinomial",
        "seed": 0,
        "model": "toy",
        "catalog": "abc",
    }
    metadata = pq.read_schema(result.distribution).metadata
    assert json.loads(metadata[b"provenance"]) == schedule.provenance and metadata[b"catalog"] == b"abc"
    table = pq.read_table(result.distribution)
    assert table.column_names == ["weight", "count"]
    np.testing.assert_array_equal(table["count"], schedule.counts())
    weights = map_weights(result.distribution, column="weight")
    np.testing.assert_array_equal(weights, schedule.counts() / schedule.counts().sum())
    for mode in ("stratified", "multinomial"):
        assert len(IndexStream(weights, mode=mode).epoch(0)[:]) == ROWS
    assert len(IndexStream(weights, mode="subset", draws=5).epoch(0)[:]) == 5


class KilledError(BaseException):
    """Stands for SIGKILL: nothing is tidied up by whoever catches only exceptions."""


@pytest.mark.parametrize("more", [{}, {"estimate": "run", "mode": "stratified"}])
@pytest.mark.parametrize("after", [1, 3, 7, 20])
def test_a_killed_search_goes_on_to_the_same_schedule(tmp_path, after, more):
    def kill(event):
        if event["done"] == after:
            raise KilledError

    whole = search(tmp_path / "whole", **more)
    with pytest.raises(KilledError):
        search(tmp_path / "killed", **more, progress=kill)
    begun = []
    again = search(tmp_path / "killed", **more, progress=lambda event: begun.append(event["done"]))
    assert begun[0] == (after - 1) // 3 * 3 + 1  # the epochs before are not done again
    assert Schedule.open(again.schedule).diff(Schedule.open(whole.schedule)).first is None
    np.testing.assert_array_equal(again.rewards, whole.rewards)
    np.testing.assert_array_equal(again.state["weights"], whole.state["weights"])


def test_a_finished_search_is_not_done_again(tmp_path):
    first = search(tmp_path)
    again = search(tmp_path, progress=lambda _: pytest.fail("trained again"))
    np.testing.assert_array_equal(again.rewards, first.rewards)
    np.testing.assert_array_equal(again.state["weights"], first.state["weights"])
    refused("started with interval 4, not 5: give another output folder", search, tmp_path, interval=5)
    refused("started with catalog '', not 'abc'", search, tmp_path, catalog="abc")
    refused("started with model none, not 'cnn'", search, tmp_path, provenance={"model": "cnn"})


def test_killed_while_the_schedule_is_written(tmp_path, monkeypatch):
    whole = search(tmp_path / "whole")

    def kill(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("drawstream.search.auto.run.write_orders", kill)
        with pytest.raises(KilledError):
            search(tmp_path / "killed")
    again = search(tmp_path / "killed")
    assert Schedule.open(again.schedule).diff(Schedule.open(whole.schedule)).first is None


def test_damage_is_refused(tmp_path):
    def kill(event):
        if event["done"] == 10:
            raise KilledError

    with pytest.raises(KilledError):
        search(tmp_path, progress=kill)
    rows = tmp_path / "schedule.rows"
    whole = rows.read_bytes()
    rows.write_bytes(whole[: 8 * 3 * 36 - 1])
    refused(r"must hold the 108 rows of its checkpoint, but holds 107: it was cut short", search, tmp_path)
    rows.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    refused(r"must have checksum [0-9a-f]{8}, but has [0-9a-f]{8}: it is damaged", search, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    refused(r"checkpoint.pt: not a checkpoint of a search", search, tmp_path)


def test_what_is_no_number_never_wins():
    assert best_child(np.array([np.nan, -3.0, -1.0, np.nan, -1.0])) == 2
    assert best_child(np.array([-np.inf, np.nan])) == 0
    refused(r"no child has a reward that is a number.*lower the learning rate", best_child, np.array([np.nan, np.nan]))


class Diverging(Torched):
    def evaluate(self):
        return float("nan")


def test_a_diverged_child_goes_on_from_the_best(tmp_path):
    result = search(tmp_path, children=[Diverging(), Torched(), Torched()])
    assert 0 not in result.winners and np.isnan(result.rewards[:, 0]).all()


def test_settings_out_of_range_are_named(tmp_path):
    for name, value, law in [
        ("interval", 0, "`interval >= 1` must hold, but got 0"),
        ("beta", 0.5, "`beta >= 1` must hold"),
        ("batch_size", 38, "`rows >= batch_size` must hold, but got 37 rows for batches of 38"),
        ("count_smoothing", "none", "`count_smoothing` must be one of .*, but got 'none'"),
        ("seed", -1, r"0 <= seed < 2\*\*64 must hold"),
    ]:
        refused(law, search, tmp_path, **{name: value})
    refused("at least one child", InTurn, [])


def test_children_are_divided_evenly():
    for world in range(1, 6):
        parts = [children_of(OneRank(rank, world), population=5) for rank in range(world)]
        assert [child for part in parts for child in part] == list(range(5))
        assert {len(part) for part in parts} <= {5 // world, -(-5 // world)}
    with pytest.raises(ValueError, match="`population >= ranks` must hold, but got 5 children for 6 ranks"):
        children_of(OneRank(0, 6), population=5)
