"""`StreamDataLoader`: the stream's orders through torch's DataLoader, and a state that is exact with any workers."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info

from drawstream import IndexStream, StreamDataLoader
from shared.refusals import refused

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of workers beside threads
ROWS = 300
WEIGHTS = np.linspace(1, 4, ROWS)
WORKERS = [
    {},
    {"num_workers": 2, "multiprocessing_context": "fork"},
    {"num_workers": 1, "multiprocessing_context": "fork", "persistent_workers": True, "prefetch_factor": 4},
]


class Pairs(Dataset):
    """A row and its square, as a dict; `fails` raises for that row."""

    def __init__(self, rows=ROWS, fails=None):
        self.rows, self.fails = rows, fails

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        if row == self.fails:
            raise RuntimeError(f"row {row} cannot be read")
        return {"row": row, "square": row * row}


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(5))


def make(stream=None, dataset=None, **options):
    stream = IndexStream(WEIGHTS, seed=2) if stream is None else stream
    return StreamDataLoader(Pairs() if dataset is None else dataset, stream, **{"batch_size": 32, **options})


def rows(batches):
    return [row for batch in batches for row in batch["row"].tolist()]


def saved(loader):
    return json.loads(json.dumps(loader.state_dict()))


@pytest.mark.parametrize("workers", WORKERS)
def test_orders_are_the_streams_and_the_state_is_what_was_delivered(workers):
    stream = IndexStream(WEIGHTS, seed=2)
    loader = make(stream, **workers)
    assert len(loader) == 10 and loader.batch_size == 32 and loader.drop_last is False
    for epoch in (0, 2):
        loader.set_epoch(np.int64(epoch))
        seen = []
        for number, batch in enumerate(loader, 1):
            seen += batch["row"].tolist()
            assert saved(loader)["position"] == min(32 * number, ROWS)
            assert loader.ids.tolist() == batch["row"].tolist()
            expected = stream.epoch(epoch).weights(32 * (number - 1), min(32 * number, ROWS))
            np.testing.assert_array_equal(loader.weights, expected)
        assert seen == stream.epoch(epoch)[:].tolist()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("stop", [1, 6, 10])
def test_leaving_early_and_resuming_elsewhere(workers, stop):
    loader = make(**workers)
    loader.set_epoch(1)
    seen = []
    for number, batch in enumerate(loader, 1):
        seen += batch["row"].tolist()
        if number == stop:
            break
    state = saved(loader)
    assert (state["epoch"], state["position"]) == (1, min(32 * stop, ROWS))
    for other in ({}, WORKERS[1]):
        again = make(batch_size=48, **other)
        again.load_state_dict(state)
        again.set_epoch(1)  # as a loop over epochs does
        assert saved(again) == state
        assert seen + rows(again) == IndexStream(WEIGHTS, seed=2).epoch(1)[:].tolist()
    loader.set_epoch(2)  # and the loop that was left goes on with the next epoch
    assert rows(loader) == IndexStream(WEIGHTS, seed=2).epoch(2)[:].tolist()


def test_fewer_rows_than_ranks_are_filled_with_weight_0():
    stream = IndexStream(9, seed=1)
    ranks = [StreamDataLoader(range(9), stream, batch_size=2, rank=rank, world_size=4) for rank in range(4)]
    loops = [list(loader) for loader in ranks]
    assert [[len(batch) for batch in loop] for loop in loops] == [[2, 1]] * 4
    assert [float(loader.weights[0]) for loader in ranks] == [1, 0, 0, 0]
    first = stream.epoch(0)[:3].tolist()
    assert [int(loop[1][0]) for loop in loops] == [int(stream.epoch(0)[8]), *first]


def test_validation_without_a_stream():
    loader = StreamDataLoader(Pairs(), batch_size=70)
    assert rows(loader) == rows(loader) == list(range(ROWS))  # no warning of a second pass


# What is refused


@pytest.mark.parametrize(
    ("error", "given", "text"),
    [
        (ValueError, {"shuffle": True}, "`shuffle` contradicts the stream, which decides the order: leave it out"),
        (ValueError, {"sampler": RandomSampler(range(ROWS))}, "`sampler` contradicts the stream"),
        (ValueError, {"batch_sampler": [[0]]}, "`batch_sampler` contradicts the stream"),
        (ValueError, {"in_order": False}, "`in_order=False` gives batches in no order"),
        (ValueError, {"dataset": Pairs(299)}, "the stream draws from 300 rows, but there are 299 rows in the dataset"),
        (ValueError, {"dataset": Pairs(301)}, "the stream draws from 300 rows, but there are 301 rows in the dataset"),
        (TypeError, {"dataset": Endless()}, r"needs a dataset with len\(\) and \[row\], but Endless is iterated"),
        (TypeError, {"dataset": iter([])}, "but list_iterator is iterated: give a map-style dataset"),
    ],
)
def test_bad_arguments(error, given, text):
    refused(text, make, error=error, **given)


def test_a_state_of_something_else_is_refused():
    state = make().state_dict()
    refused("another rows: saved 299, loader has 300", lambda: make().load_state_dict(state | {"rows": 299}))


def test_ids_before_the_first_batch():
    with pytest.raises(ValueError, match="no batch was given yet"):
        _ = make().ids


def test_the_sampler_is_for_this_loader_alone():
    loader = make()
    with pytest.raises(ValueError, match=r"another loader iterates it: leave the loader out of accelerator.prepare"):
        next(iter(DataLoader(Pairs(), batch_sampler=loader.batch_sampler)))


# What goes wrong in a loop


def test_two_loops_at_once_cannot_share_persistent_workers():
    loader = make(**WORKERS[2])
    one, two = iter(loader), iter(loader)
    next(one)
    assert rows([next(two)]) == IndexStream(WEIGHTS, seed=2).epoch(0)[:32].tolist()
    refused("a second loop over this loader took its workers", next, one)


@pytest.mark.parametrize("workers", WORKERS)
def test_errors_of_the_dataset_and_of_the_loop_resume_at_their_batch(workers):
    order = IndexStream(WEIGHTS, seed=2).epoch(0)
    loader = make(dataset=Pairs(fails=int(order[100])), **workers)
    seen = []
    with pytest.raises(RuntimeError, match="cannot be read"):
        for batch in loader:
            seen += batch["row"].tolist()
    again = make(**workers)
    again.load_state_dict(saved(loader))
    with pytest.raises(ZeroDivisionError):
        for number, batch in enumerate(again):
            if number == 2:
                1 / 0  # noqa: B018 - before the batch is trained on: it counts as given
            seen += batch["row"].tolist()
    assert saved(again)["position"] == len(seen) + 32 and seen == order[: len(seen)].tolist()


class Ends(Pairs):
    """A row whose reader has come to its end, in the dataset itself or in `collate_fn`."""

    def __getitem__(self, row):
        return next(iter([])) if row == self.fails else super().__getitem__(row)


def first_of_small(batch):
    return next(each for each in batch if each["row"] < 0)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("resumed", [False, True])
def test_stop_iteration_in_a_dataset_is_no_end(workers, resumed):
    order = IndexStream(WEIGHTS, seed=2).epoch(0)
    at = 100 if not resumed else 260
    failing = next(p for p in range(at, ROWS) if int(order[p]) not in order[:at])
    loader = make(dataset=Ends(fails=int(order[failing])), **workers)
    if resumed:
        loader.load_state_dict(loader.state_dict() | {"position": 32})
    step = (failing - (32 if resumed else 0)) // 32
    expected = rf"StopIteration in batch {step} of {9 if resumed else 10}, at one of the rows \["
    refused(expected, list, loader, error=RuntimeError)
    assert loader.state_dict()["position"] == 32 * (step + resumed)


def test_stop_iteration_in_collate_fn_is_no_end():
    refused("StopIteration in batch 0 of 10", lambda: list(make(collate_fn=first_of_small)), error=RuntimeError)


def test_a_dataset_without_rows_is_refused():
    for stream in (None, WEIGHTS):
        refused("the dataset has no rows", StreamDataLoader, [], stream)


@pytest.mark.parametrize("workers", WORKERS[1:])
def test_a_look_after_a_load_keeps_the_place(workers):
    loader = make(**workers)
    state = loader.state_dict() | {"position": 64}
    loader.load_state_dict(state)
    next(iter(loader))
    assert rows(loader) == IndexStream(WEIGHTS, seed=2).epoch(0)[64:].tolist()


def test_set_epoch_between_iter_and_the_first_batch_counts():
    """Lightning asks for the iterator before it says the epoch."""
    for workers in WORKERS:
        loader = make(**workers)
        batches = iter(loader)
        loader.set_epoch(2)
        assert rows(batches) == IndexStream(WEIGHTS, seed=2).epoch(2)[:].tolist()


# Options of the DataLoader


def tagged(batch):
    return {"row": torch.tensor([each["row"] for each in batch]), "worker": get_worker_info().id}


def seeded(worker):
    np.random.seed(worker)  # noqa: NPY002 - as users do


def test_options_reach_the_dataloader():
    options = {"collate_fn": tagged, "worker_init_fn": seeded, "timeout": 60, "pin_memory": False}
    loader = make(**WORKERS[1], **options)
    batches = list(loader)
    assert rows(batches) == IndexStream(WEIGHTS, seed=2).epoch(0)[:].tolist()
    assert [batch["worker"] for batch in batches[:4]] == [0, 1, 0, 1]


def test_workers_by_spawn_and_a_loader_that_travels():
    loader = pickle.loads(pickle.dumps(make(num_workers=1, multiprocessing_context="spawn")))
    assert rows(loader) == IndexStream(WEIGHTS, seed=2).epoch(0)[:].tolist()


# Streams that change


class Learner:
    def __init__(self):
        self.seen = np.zeros(ROWS)

    def probabilities(self, epoch):
        return 1 / (1 + self.seen)

    def state_dict(self):
        return {"seen": self.seen.copy()}

    def load_state_dict(self, state):
        self.seen = state["seen"].copy()


@pytest.mark.parametrize("kind", ["update", "learner"])
def test_a_run_with_workers_killed_after_a_change_draws_the_same_rows(kind):
    def new():
        return make(IndexStream(WEIGHTS if kind == "update" else Learner(), mode="multinomial", seed=2), **WORKERS[1])

    def train(loader, epoch, stop=None):
        given = []
        for number, batch in enumerate(loader, 1):
            given += batch["row"].tolist()
            if kind == "learner":
                loader.stream._sampler.seen[loader.ids] += 5
            if number == stop:
                return given
        if kind == "update":
            loader.stream.update(np.roll(WEIGHTS**4, 50 * epoch))
        return given

    loader, whole = new(), []
    for epoch in range(3):
        loader.set_epoch(epoch)
        whole.append(train(loader, epoch))
    loader = new()
    train(loader, 0)
    loader.set_epoch(1)
    begun = train(loader, 1, stop=4)
    resumed = new()
    resumed.load_state_dict(saved(loader))
    assert begun + train(resumed, 1) == whole[1]
    resumed.set_epoch(2)
    assert train(resumed, 2) == whole[2]
