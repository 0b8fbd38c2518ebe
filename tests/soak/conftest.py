"""What the fault tests share: small data, the commands at a tiny size, how they run, when two results are equal."""

import collections
import contextlib
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

from drawstream.samplers.orders.schedule import Schedule
from drawstream.tools.cli.app import main
from drawstream.tools.cli.signals import system_error_line
from shared.samples import LABELS, PIXELS

CONTEXT = multiprocessing.get_context("forkserver")
ROOMS = ("cli", "jobs.train", "jobs.features", "jobs.search", "jobs.auto", "report.build", "training.setup")
OTHERS = ("drawstream.pipeline.shards.pack", "drawstream.search", "webdataset", "sqlalchemy", "optuna.storages")
CONTEXT.set_forkserver_preload([*(f"drawstream.tools.{name}" for name in ROOMS), *OTHERS])
CHILD = """
import os, signal, sys
if os.getsid(0) != os.getpid():
    os.setsid()
os.umask(0o022)
os.environ.update(told["env"])
if told["cwd"]:
    os.chdir(told["cwd"])
for number, name in ((1, "out"), (2, "err")):
    file = os.open(told["stem"] + "." + name, os.O_WRONLY | os.O_CREAT, 0o666)
    os.dup2(file, number)
    os.close(file)
sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
sys.argv = ["drawstream", *told["arguments"]]
exec(before)
from drawstream.tools.cli.app import main
from drawstream.tools.cli.signals import system_error_line
status = main(told["arguments"])
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the program does
sys.exit(status)
"""
TIMED = (
    "finished", "second", "wait", "loader", "images_per", "spent", "versions", "command", "trial_", "checks", "claims",
    "report",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What the commands read; nothing below `root` is written by a test."""

    root: Path

    def __getattr__(self, name):
        return self.root / {"npz": "pixels.npz", "weights": "run/last.safetensors", "sampler": "sampler.json"}.get(
            name, name
        )


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Digits, packed; a tracked training, its features, a sampler, a search's record."""
    root = tmp_path_factory.mktemp("inputs")
    images = np.kron(PIXELS, np.ones((1, 4, 4), np.uint8))
    np.savez(root / "pixels.npz", images=images, labels=LABELS)
    train, held = str(root / "data/train"), str(root / "data/holdout")
    small = ["--limit", "480", "--holdout", "96", "--encoding", "raw"]
    np.savez(root / "small.npz", images=PIXELS, labels=LABELS)
    run = ["train", train, "-o", str(root / "run"), "--model", "mlp", "--epochs", "2", "--held-out", held]
    for command in (
        ["pack", str(root / "small.npz"), str(root / "data"), *small],
        ["pack", str(root / "pixels.npz"), str(root / "images"), "--encoding", "png"],
        [*run, "--track", str(root / "features")],
        ["fit", str(root / "features"), "-o", str(root / "sampler.json"), "--transform", "cdf"],
    ):
        assert main(command) == 0, command
    assert main([*commands(Inputs(root), root / "search")["search swift"]]) == 0
    assert main([*commands(Inputs(root), root / "auto")["search auto"]]) == 0
    return Inputs(root)


def commands(inputs, out):
    """Arguments of every command that writes, each into `out`."""
    train, held = inputs.data / "train", inputs.data / "holdout"
    model, short = ["--model", "mlp"], ["--epochs", 4, "--global-batch", 32]
    swift = ["--agent", "random", "--transform", "cdf", "--trials", 5, "--confirm-top", 1, "--confirm-seeds", 2]
    swift += ["--epochs", 1, "--start", inputs.weights, "--held-out", held, "--global-batch", 32, "--catalog", train]
    auto = ["--population", 2, "--interval", 4, "--reward-rows", 50]
    drawn = ["--column", "weight", "--epochs", "0:4"]
    budget = ["--held-out", held, *model, "--epochs", 4, "--batch-size", 32, "--seeds", 0, "--schedules", "linear"]
    found = {
        "pack": ["pack", inputs.npz, out, "--encoding", "png"],
        "index": ["index", inputs.images, "-o", out],
        "features": ["features", train, "-o", out, *model, "--weights", inputs.weights, "--crops", 6],
        "train": ["train", train, "-o", out, *model, *short, "--held-out", held],
        "train, tracked": ["train", train, "-o", out, *model, *short, "--track", out / "features"],
        "fit": ["fit", inputs.features, "-o", out / "sampler.json", "--transform", "cdf"],
        "search swift": ["search", "swift", inputs.features, "-o", out, *model, *swift],
        "search auto": ["search", "auto", train, "-o", out, *model, *short, "--held-out", held, *auto],
        "report": ["report", inputs.root, "-o", out / "report.html"],
        "stream export": ["stream", "export", inputs.auto / "distribution.parquet", "-o", out / "orders.arrow", *drawn],
        "json": ["features", "info", inputs.features, "--json", out / "info.json"],
        "bench budget": ["bench", "budget", "--data", train, *budget, "--methods", "p", "--processes", 2, "-o", out],
    }
    return {name: [str(each) for each in arguments] for name, arguments in found.items()}


class Running:
    """A command at work, in its own session; forked from a process that has imported everything, or `fresh`."""

    def __init__(self, arguments, folder, *, fresh=False, cwd=None, env=None, before=""):
        self.begin, self._stem = time.monotonic(), folder / f"{time.monotonic_ns()}"
        env = {"OMP_NUM_THREADS": "1", **(env or {})}
        words = [str(each) for each in arguments]
        told = {"arguments": words, "stem": str(self._stem), "cwd": cwd and str(cwd), "env": env}
        if fresh:
            program = f"told = {told!r}\nbefore = {before!r}\n{CHILD}"
            self._process = subprocess.Popen([sys.executable, "-c", program], cwd=folder)
            self.pid = self._process.pid
        else:
            self._process = CONTEXT.Process(target=exec, args=(CHILD, {"told": told, "before": before}))
            self._process.start()
            self.pid = self._process.pid

    @property
    def alive(self):
        return self._process.poll() is None if hasattr(self._process, "poll") else self._process.is_alive()

    def kill(self, number):
        """A signal for the process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_group(self, number):
        """A signal for all of its session, as a terminal sends Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def end(self, timeout=300):
        """Wait: status, stdout, stderr and seconds."""
        if hasattr(self._process, "poll"):
            status = self._process.wait(timeout)
        else:
            self._process.join(timeout)
            status = self._process.exitcode
            assert status is not None, "the command hangs"
        texts = [Path(f"{self._stem}.{name}") for name in ("out", "err")]
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in texts)
        return Done(status, out, err, time.monotonic() - self.begin)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    def told(self, *words, status=2):
        """The one line of error of a command that ended clearly."""
        assert "Traceback" not in self.stderr and "Exception ignored" not in self.stderr, self.stderr
        assert self.status == status, (self.status, self.stderr)
        lines = [line for line in self.stderr.splitlines() if line.startswith("drawstream: ")]
        assert len(lines) == 1 and self.stderr.splitlines()[-1] == lines[0], self.stderr
        for word in words:
            assert str(word).lower() in lines[0].lower(), (word, lines[0])
        return lines[0]

    def fine(self):
        """A command that must have done its work."""
        assert self.status == 0 and "Traceback" not in self.stderr, (self.status, self.stderr)
        return self


class Soak:
    """What the tests are given: the inputs, and commands to run on them."""

    kills = int(os.environ.get("KILLS", "10"))

    def __init__(self, root, folder):
        self.root, self._folder, self.inputs = root, folder, Inputs(root)

    def commands(self, out):
        """As `commands`."""
        return commands(self.inputs, out)

    def start(self, arguments, **options):
        """A command at work."""
        return Running(arguments, self._folder, **options)

    def run(self, arguments, **options):
        """A command that ended."""
        return self.start(arguments, **options).end()

    result_of = staticmethod(lambda out: result_of(out))
    leftovers = staticmethod(lambda out: leftovers(out))


@pytest.fixture(scope="session")
def soak(inputs, tmp_path_factory):
    """Inputs and commands."""
    with pytest.MonkeyPatch.context() as patch:  # torch reads these when it is imported
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("GOMP_SPINCOUNT", "10000")
        forkserver.ensure_running()
    return Soak(inputs.root, tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="session")
def undisturbed(soak, tmp_path_factory):
    """Result and seconds of each command without any fault; made when first asked for."""
    made = {}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp("whole") / "out"
            done = soak.run(soak.commands(out)[name], fresh=name == "bench budget").fine()
            made[name] = result_of(out), done.seconds
        return made[name]

    return of


def result_of(out):
    """What a command left, without times: values of JSON, hashes of other files; databases and benches' pages apart."""
    found = {}
    for path in sorted(each for each in out.rglob("*") if each.is_file()):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix not in (".db", ".html"):
            content = path.read_bytes()
            found[name] = _rows_of(path) if path.suffix == ".arrow" else hashlib.sha256(content).hexdigest()
        elif path.name == "report.html":
            found[name] = len(path.read_bytes())
    return found


def _rows_of(schedule):
    """The orders of a schedule, without the command in its metadata."""
    orders = Schedule.open(schedule)
    return [hashlib.sha256(orders.epoch(epoch)[:].tobytes()).hexdigest() for epoch in range(orders.epochs)]


def _timeless(value):
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not any(word in k for word in TIMED) and k != "trial"}
    if isinstance(value, list):
        return [_timeless(v) for v in value if not (isinstance(v, dict) and v.get("state") == "failed")]
    return value


def leftovers(out):
    """Hidden files beside and below `out`: temporary ones, locks, half-filled folders."""
    below = list(out.rglob(".*")) if out.is_dir() else []
    return sorted(str(each) for each in [*below, *out.parent.glob(f".{out.name}*")])


CLEAR = (ValueError, OSError, RuntimeError)  # one line; RuntimeError: subclasses; OSError: with a file


def damaged(content, rng):
    """One of: flipped bits, a cut, zeros, a piece twice, a piece of noise, a number that grows."""
    data = bytearray(content)
    at = int(rng.integers(len(data)))
    size = int(rng.integers(1, min(64, len(data)) + 1))
    match int(rng.integers(6)):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at:]
        case 2:
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            data[at : at + size] = rng.bytes(size)
        case _:
            data[at : at + 1] = b"9"
    return bytes(data)


@pytest.fixture(scope="session")
def damages():
    """Damage a file in many ways; each must end clearly, or with what is there; count how they ended."""

    def check(name, path, read, *, sealed=False, count=0, clear=CLEAR):
        whole, right = path.read_bytes(), read()
        count = count or max(150, int(os.environ.get("SOAK", "300")) // 2)
        rng, ended = np.random.default_rng([len(name), *name.encode()]), collections.Counter()
        try:
            for number in range(count):
                path.write_bytes(damaged(whole, rng))
                try:
                    found = read()
                except clear as error:
                    told = str(error).strip() and type(error) is not RuntimeError
                    told = told and (not isinstance(error, OSError) or system_error_line(error))
                    assert told, f"{name}, damage {number}: {error!r}"
                    ended[type(error).__name__] += 1
                except Exception as error:
                    raise AssertionError(f"{name}, damage {number}: {error!r}") from error
                else:
                    ended["read"] += 1
                    assert not sealed or found == right, f"{name}, damage {number} was read as something else"
        finally:
            path.write_bytes(whole)
        print(f"{name}: {count} damages, " + ", ".join(f"{kind} {times}" for kind, times in ended.most_common()))

    return check
