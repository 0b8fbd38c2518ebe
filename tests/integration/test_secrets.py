"""A secret in an option, a config file or an address is in nothing that a command prints or writes."""

import base64
import io
import sys
from pathlib import Path

import pytest

from drawstream.pipeline.shards import remote
from drawstream.tools.cli.app import main
from drawstream.tools.report.board import Board
from drawstream.tools.runs import files_below, hooks

S = "hUnTer2xyz"
pytestmark = pytest.mark.usefixtures("quick")
CLOSED = "127.0.0.1:9"  # nobody listens at the port of "discard"
JUDGE = "def judge(probabilities, trial):\n    return float(probabilities.max())\n"


def run(monkeypatch, words, status):
    """Run a command as a shell would; what it printed."""
    words = [str(word) for word in words]
    printed = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["drawstream", *words])
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", printed)
    found = main(words)
    assert found == status, printed.getvalue()
    return printed.getvalue()


def must_hold_no_secret(folder, *texts):
    needles = [S.encode(), base64.b64encode(S.encode())]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path
    for text in texts:
        assert S not in text, text


STORAGES = [
    f"postgresql://user:{S}@{CLOSED}/studies",
    f"postgresql://user:a'{S}@{CLOSED}/studies",
    f"postgresql://user:a/{S}@{CLOSED}/studies",
    f"postgresql://user:a@{S}@{CLOSED}/studies",
    f"postgresql+psycopg2://user:{S}@[::1]:9/studies",
    f"mysql+pymysql://user:{S}@{CLOSED}/studies?password={S}",
    f"redis://:{S}@{CLOSED}/0",
    f"nothing://user:{S}@host/x",
    f"postgresql://user:{S}@host:port/x",
    f"sqlite:////nowhere/study.db?key={S}",
]


@pytest.fixture
def features(packed, tmp_path):
    """Features of the digits, and an objective, below the working folder."""
    (tmp_path / "judge_of_secrets.py").write_text(JUDGE)
    words = ["features", packed, "-o", tmp_path / "f", "--model", "mlp", "--weights", weights(packed, tmp_path)]
    assert main([str(word) for word in words]) == 0
    return tmp_path / "f"


def weights(packed, tmp_path):
    words = ["train", packed, "-o", tmp_path / "w", "--model", "mlp", "--epochs", "1"]
    assert main([str(word) for word in words]) == 0
    return tmp_path / "w" / "last.safetensors"


def test_no_message_of_a_storage_shows_its_password(packed, features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search = ["search", "swift", features, "--catalog", packed, "--objective", "judge_of_secrets:judge", "--trials", 2]
    for number, storage in enumerate(STORAGES):
        out = tmp_path / f"s{number}"
        text = run(monkeypatch, [*search, "-o", out, "--storage", storage], 2)
        assert text.startswith("drawstream: cannot open the study storage") and text.count("\n") == 1
        (tmp_path / "job.toml").write_text(f'[search.swift]\nstorage = """{storage}"""\n')
        other = run(monkeypatch, ["--config", tmp_path / "job.toml", *search, "-o", out], 2)
        (tmp_path / "job.toml").unlink()
        must_hold_no_secret(tmp_path, text, other)


def test_no_record_of_a_search_holds_a_secret_of_its_storage(packed, features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing_of_secrets.py").write_text(
        "def judge(probabilities, trial):\n"
        f"    if trial.number == 1: raise ValueError('no answer of postgresql://u:{S}@db/x')\n"
        "    return float(probabilities.max())\n"
    )
    storage = f"sqlite:///file:{tmp_path}/study.db?mode=rwc&uri=true&password={S}"
    search = ["search", "swift", features, "--catalog", packed, "--objective", "failing_of_secrets:judge"]
    options = ["--trials", 3, "--agent", "random", "--storage", storage, "--json", tmp_path / "s.json", "-o", "s"]
    text = run(monkeypatch, [*search, *options], 2)
    (tmp_path / "failing_of_secrets.py").unlink()
    must_hold_no_secret(tmp_path, text)


ADDRESSES = [
    "http://user:{S}@{at}",
    "http://{at}?token={S}",
    "http://{at}?X-Amz-Signature={S}&b=c'd",
    "http://{S}@{at}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_catalog_s_address_leaves_no_secret(server, tmp_path, monkeypatch, address):
    url = address.format(S=S, at=server.url.removeprefix("http://"))
    out = tmp_path / "runs"
    journal = []
    usual = hooks.Journal._write
    monkeypatch.setattr(
        hooks.Journal, "_write", lambda self: (usual(self), journal.append(self._path.read_text(encoding="utf-8")))
    )
    words = ["train", url, "-o", out / "a", "--model", "mlp", "--epochs", 1]
    text = run(monkeypatch, [*words, "--json", tmp_path / "a.json", "--track", out / "t"], 0)
    text += run(monkeypatch, ["verify", url, "--quarantine", tmp_path / "q.json", "--json", tmp_path / "v.json"], 0)
    fit = ["fit", out / "t", "-o", tmp_path / "sampler.json", "--catalog", url]
    text += run(monkeypatch, fit, 0)
    text += run(monkeypatch, ["report", out, "-o", tmp_path / "report.html"], 0)
    assert journal and files_below(out, "run.json")
    must_hold_no_secret(tmp_path, text, *journal, str(Board(out).state()))


@pytest.mark.parametrize("address", [*ADDRESSES, "http://user:a/{S}@{at}", "s3://key:{S}@no-such-bucket-here/x"])
@pytest.mark.parametrize("command", ["train", "verify", "features"])
def test_an_address_that_cannot_be_read_shows_no_secret(tmp_path, monkeypatch, address, command):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    if address.startswith("s3"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{CLOSED}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S)
    url = address.format(S=S, at=f"{CLOSED}/train")
    more = {"train": ["-o", tmp_path / "r"], "features": ["-o", tmp_path / "r", "--weights", "x"]}.get(command, [])
    text = run(monkeypatch, [command, url, *more, "--json", tmp_path / "j.json"], 2)
    assert text.startswith("drawstream: ") and text.count("\n") == 1
    must_hold_no_secret(tmp_path, text)


def test_paths_of_records_are_still_relative(packed, tmp_path):
    weights(packed, tmp_path)
    assert not Path((tmp_path / "w" / "run.json").read_text().split('"catalog": "')[1].split('"')[0]).is_absolute()
