"""A staged folder appears whole or not at all."""

import signal
import subprocess
import sys

import pytest

from drawstream.pipeline.shards.staging import staged_folder

HOLD = """
import sys
from drawstream.pipeline.shards.staging import staged_folder
with staged_folder(sys.argv[1]) as folder:
    (folder / "half").mkdir()
    (folder / "half" / "file").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_appears_with_its_content(tmp_path):
    with staged_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "whole"
    assert names(tmp_path / "deep") == ["out"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with staged_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("whole")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "there") == ["file"]
    assert names(tmp_path) == ["link", "there"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_filled_targets_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(ValueError, match="out: folder is not empty: name another one"), staged_folder(tmp_path / "out"):
        pass
    with (
        pytest.raises(ValueError, match="precious: is a file: name a folder"),
        staged_folder(tmp_path / "out/precious"),
    ):
        pass
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_replaces_when_allowed_and_keeps_the_old_one_on_an_error(tmp_path):
    for text in ("old", "new"):
        with staged_folder(tmp_path / "out", replaceable=True) as folder:
            (folder / text).write_text(text)
    assert names(tmp_path / "out") == ["new"] and names(tmp_path) == ["out"]
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "out", replaceable=True):
        raise ZeroDivisionError
    assert names(tmp_path / "out") == ["new"] and names(tmp_path) == ["out"]


def test_a_killed_writer_is_cleared_away_and_a_live_one_is_not(tmp_path):
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdin=-1, stdout=-1) as process:
        assert process.stdout.readline() == b"ready\n"
        with (
            pytest.raises(ValueError, match=rf"out: another process \({process.pid} on .*\) is writing there"),
            staged_folder(target),
        ):
            pass
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    with staged_folder(target) as folder:
        assert names(folder) == []
        (folder / "file").write_text("whole")
    assert names(target) == ["file"] and names(tmp_path) == ["out"]
