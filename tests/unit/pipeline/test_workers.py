"""The pool of workers: tasks come back whoever does them, dead workers are replaced, errors travel."""

import copy
import functools
import os
import pathlib
import pickle
import signal
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from drawstream import IndexStream, Loader, Sequential, Transform
from drawstream.pipeline.workers import engines
from drawstream.pipeline.workers.engines import spread
from drawstream.pipeline.workers.pool import ATTEMPTS, Answer, Pool, WorkerError
from drawstream.pipeline.workers.ray import Actor, RayActors, joined, places_of
from shared.processes import run
from shared.refusals import refused
from shared.samples import array_catalog


def open_workers(function, /, workers=None, engine="local", **options):
    return engines.open_workers(function, engines.Workers(workers, engine, threads=0), **options)  # without torch


def double(task):
    return 2 * task


def pid(_task):
    time.sleep(0.1)
    return os.getpid()


def counting(task):
    yield from range(task)
    return task


class StubbornError(Exception):
    """Cannot be unpickled."""

    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def failing(task):
    raise StubbornError("disk", "full") if task == 1 else OSError("disk full")


def deadly_once(folder, task):
    mark = pathlib.Path(folder) / "died"
    if task == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def deadly(task):
    os._exit(7)


def results(pool, tasks):
    """Results by task."""
    for task in tasks:
        pool.start(task)
    found = {}
    while len(found) < len(tasks):
        answer = pool.next()
        if answer.done:
            found[answer.task] = answer.error or answer.value
    return found


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_every_task_is_done_and_results_can_be_had_in_order(workers):
    with open_workers(double, workers=workers) as pool:
        assert results(pool, range(5)) == {k: 2 * k for k in range(5)}
        assert results(pool, [9]) == {9: 18}
    assert list(spread(double, range(5), workers=workers)) == [0, 2, 4, 6, 8]
    assert list(spread(double, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_generator_yields_progress_before_its_result(workers):
    with open_workers(counting, workers=workers) as pool:
        number = pool.start(2)
        assert [pool.next() for _ in range(3)] == [
            Answer(0, None, False, number, 2),
            Answer(1, None, False, number, 2),
            Answer(2, None, True, number, 2),
        ]


@pytest.mark.slow
def test_workers_are_other_processes_and_end_with_the_pool():
    with open_workers(pid, workers=2) as pool:
        pids = set(results(pool, range(4)).values())
        assert len(pids) == 2 and os.getpid() not in pids
        pool.start(5)  # still at work when the pool is closed
    for each in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)


def test_the_task_of_a_worker_that_dies_is_done_by_another(tmp_path):
    with open_workers(functools.partial(deadly_once, str(tmp_path)), workers=2) as pool:
        assert results(pool, range(4)) == {k: k for k in range(4)}
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_task_whose_workers_die_again_and_again_is_an_error():
    with (
        open_workers(deadly, workers=2, name="task {}".format) as pool,
        pytest.raises(WorkerError, match=r"task 4: .* died 3 times.* exit code 7.*__main__"),
    ):
        results(pool, [4])


@pytest.mark.slow
def test_errors_travel_also_those_that_cannot_be_pickled():
    with open_workers(failing, workers=2) as pool:
        found = results(pool, range(2))
    assert type(found[0]) is OSError and str(found[0]) == "disk full"
    assert type(found[1]) is RuntimeError and str(found[1]) == "disk full"
    refused("disk full", lambda: list(spread(failing, range(3), workers=2)), error=OSError)


def test_a_function_that_no_process_could_have_is_refused_at_once():
    with (
        pytest.raises(ValueError, match=r"the model cannot be sent to other processes.*function of a module"),
        open_workers(lambda task: 1.0, workers=2, what="the model"),
    ):
        pass


@pytest.mark.slow
def test_a_function_that_a_worker_cannot_load_ends_the_work(monkeypatch):
    here = type(sys)("only_here")
    exec("def score(task):\n    return 42.0", vars(here))
    monkeypatch.setitem(sys.modules, "only_here", here)
    with (
        pytest.raises(WorkerError, match=r"a worker cannot start: .* No module named 'only_here'"),
        open_workers(here.score, workers=2) as pool,
    ):
        results(pool, [0])


@pytest.mark.slow
def test_functions_of_the_working_folder_travel_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_workers.py").write_text("def score(task):\n    return 42.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = __import__("mine_for_workers")
    with open_workers(mine.score, workers=2) as pool:
        assert results(pool, [0]) == {0: 42.0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine": "dask"}, "engine must be local, ray or ray:ADDRESS, but got 'dask'"),
        ({"engine": "local:x"}, "but got 'local:x'"),
        ({"workers": 0}, "workers >= 1 must hold, but got 0"),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text), open_workers(double, **options):
        pass


def test_without_ray_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'drawstream\[cluster\]'"), joined(None):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_where_nobody_listens_is_told_at_once(address):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}: "), joined(address):
        pass


def nodes(*sizes):
    def node(cpus, gpus=0):
        return {"Alive": True, "Resources": {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})}

    return SimpleNamespace(nodes=lambda: [node(*each) for each in sizes] + [{**node(9, 9), "Alive": False}])


@pytest.mark.parametrize(
    ("sizes", "device", "threads", "expected"),
    [
        ([(2, 0)], "cpu", 1, (1, 2)),
        ([(0, 0), (8, 0), (5, 1)], "cpu", 2, (2, 6)),
        ([(0, 0), (1, 0), (8, 0)], "cpu", None, (1, 9)),  # the smallest node decides
        ([(16, 4), (8, 1), (64, 0)], "gpu", None, (4, 5)),
        ([(16, 4), (8, 1)], "gpu", 8, (8, 3)),  # no more GPUs than cores go around
    ],
)
def test_places(sizes, device, threads, expected):
    assert places_of(nodes(*sizes), device, threads) == expected


def test_a_cluster_without_room_is_refused():
    with pytest.raises(ValueError, match=r"no node with 3 cores: its nodes have \(cores, GPUs\) \[\(2, 0\)\]"):
        places_of(nodes((2, 0)), "cpu", 3)
    refused("no node with 1 cores and a GPU", lambda: places_of(nodes((2, 0)), "gpu", None))


def test_an_actor_yields_answers_and_can_be_sent_into_as_ray_does():
    actor = Actor()
    actor._function = counting
    running = actor.run(2)
    assert [running.send(None) for _ in range(3)] == [Answer(0, done=False), Answer(1, done=False), Answer(2)]


class LostError(Exception):
    pass


class FakeRay:
    """Workers whose next deed is drawn: they report, finish, raise, die, or (None) do not get a place."""

    def __init__(self, fate, size):
        self.fate, self.alive, self.done = fate, set(), Counter()
        self.exceptions = SimpleNamespace(RayError=LostError)
        self.nodes = nodes((size, 0)).nodes
        self.put = lambda value: value

    def remote(self, _):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: FakeWorker(self)))

    def kill(self, worker):
        self.alive.discard(worker)

    def wait(self, handles, *, timeout):
        placed = [handle for handle in handles if handle.worker in self.alive]
        return (placed[:1], None) if placed or timeout is not None else pytest.fail("it would wait for ever")

    def get(self, handle):
        if isinstance(handle.deed, Exception):
            raise handle.deed
        return handle.deed


class FakeWorker:
    def __init__(self, ray):
        self.ray = ray
        opened = {"die": LostError("gone")}.get(ray.fate("open"), "ready")
        self.load = SimpleNamespace(remote=lambda *_: Handle(self, opened))
        self.run = SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=lambda task: Stream(self, task)))
        if ray.fate("place"):
            ray.alive.add(self)


@dataclass(eq=False)
class Handle:
    """A message of a worker."""

    worker: FakeWorker
    deed: object


class Stream:
    """The answers of a task."""

    def __init__(self, worker, task):
        assert worker in worker.ray.alive, "a task was given to a worker that is gone"
        self.worker, self.task = worker, task

    def __next__(self):
        deed = self.worker.ray.fate("run")
        self.worker.ray.done[self.task] += deed in ("finish", "raise")
        answers = {"report": Answer(5, done=False), "raise": Answer(error=OSError("no such host")), "finish": Answer(7)}
        return Handle(self.worker, answers.get(deed, LostError("gone\nfor ever")))


@given(data=st.data(), size=st.integers(1, 4))
def test_every_task_ends_once_or_the_reason_is_told(data, size):
    """Whatever dies or raises: each task ends exactly once, unless something failed three times."""
    deaths = Counter()

    def fate(what):
        choices = {
            "place": [True],
            "open": ["ready"] * 3 + ["die"],
            "run": ["finish", "finish", "report", "raise", "die"],
        }
        deed = data.draw(st.sampled_from(choices[what]))
        deaths[what] += deed == "die"
        return deed

    ray = FakeRay(fate, size)
    pool = Pool(RayActors(ray, double, None, 1, "cpu", "it"), "task {}".format)
    try:
        assert results(pool, "abcd").keys() == set("abcd")
    except WorkerError as error:
        assert f"{ATTEMPTS} times, the last time because: LostError: gone" in str(error) and "\n" not in str(error)
        assert deaths["run" if "task" in str(error).split(":")[0] else "open"] >= ATTEMPTS
    else:
        assert ray.done == dict.fromkeys("abcd", 1)
    pool.close()
    assert not ray.alive


def test_a_cluster_on_which_nothing_starts_is_told():
    pool = Pool(RayActors(FakeRay(lambda what: what != "place", 2), double, None, 1, "cpu", "it"))
    refused("no worker could start within 300 s: see `ray status`", results, pool, [0], error=WorkerError)


# The loader in other people's loops: validation without a stream, forks, copies and ends


WEIGHTS = np.linspace(1, 4, 300)


def ids(batches):
    return [row for batch in batches for row in batch.ids.tolist()]


# Parts of a loader


def test_without_a_stream_every_row_comes_once_in_order(digits):
    ranks = [Loader(digits, batch_size=64, rank=rank, world_size=7) for rank in range(7)]
    steps = list(zip(*ranks, strict=True))
    rows = [[row for batch in step for row in batch.ids.tolist()] for step in steps]
    weights = [[weight for batch in step for weight in batch.weights.tolist()] for step in steps]
    assert len(rows) == 1 and rows[0][:300] == list(range(300)) and weights[0] == [1.0] * 300 + [0.0]
    assert len(list(Loader(digits, batch_size=64))) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validation = Loader(digits, batch_size=64)
        assert ids(validation) == ids(validation) == list(range(300))  # again and again, without set_epoch


def test_without_a_stream_large_images_are_seen_as_in_evaluation(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (4, 80, 90, 3), dtype=np.uint8)
    catalog = array_catalog(tmp_path / "photos", photos, np.arange(4), encoding="png")
    assert Loader(catalog).transform == Transform.large(train=False)
    assert Loader(catalog, IndexStream(4)).transform == Transform.large(train=True)
    assert Loader(catalog, Sequential(0, 4)).transform == Transform.large(train=True)  # as it always was
    a, b = (next(iter(Loader(catalog))).images for _ in range(2))
    assert torch.equal(a, b)


# Processes and ends


def in_a_fork(work):
    """The error of `work` in a forked child; the child must end within 20 s."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: the very case
        child = os.fork()
    if not child:
        try:
            work()
            text = "no error"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_a_loader_that_was_used_before_a_fork_says_so_in_the_child(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    running = iter(loader)
    next(running)
    expected = f"ValueError: this loader was used in process {os.getpid()} before the fork"
    assert in_a_fork(lambda: next(iter(loader))).startswith(expected)
    assert in_a_fork(lambda: next(running)).startswith(expected)
    assert len(list(running)) == 2  # and the parent goes on


ENDS = """
import os, sys, time
import numpy as np
from drawstream import Catalog, Loader
loader = Loader(Catalog.open(sys.argv[1]), np.ones(300), batch_size=100)
running = iter(loader)
next(running)
child = os.fork()
if not child:
    sys.exit(7)
for _ in range(200):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""


def test_a_forked_child_exits_as_usual(digits):
    assert run("-c", ENDS, digits.path, status=7)[1] == ""


def test_a_loader_that_was_not_used_before_a_fork_works_in_the_child(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    assert in_a_fork(lambda: next(iter(loader))) == "no error"


class FromLoader:
    """A dataset over a loader, as some write it."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return 4

    def __getitem__(self, row):
        return next(iter(self.loader)).ids


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_used_loader_in_a_worker_of_a_dataloader_says_so(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    next(iter(loader))
    workers = DataLoader(FromLoader(loader), num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(ValueError, match=r"this loader was used in process .* make a new one in this process"):
        next(iter(workers))


def test_copies_are_refused_in_one_line(digits):
    loader = Loader(digits, WEIGHTS)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        refused(
            "a loader cannot be copied or sent to another process, for it holds threads", take, loader, error=TypeError
        )


def test_a_closed_loader_says_so(digits):
    loader = Loader(digits, WEIGHTS, batch_size=10)
    running = iter(loader)
    next(running)
    loader.close()
    loader.close()
    for again in (running, iter(loader)):
        refused("this loader is closed: make a new one", list, again)
