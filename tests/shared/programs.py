"""The command line, run in this process."""

import contextlib
import io
import json

from drawstream.tools.cli.app import main


def cli(*words, status=0, notes=None):
    """Run `drawstream` with these words: what it printed; where it failed, or with `notes`, what it said on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = main([str(word) for word in words])
    assert ended == status, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return (err if (status if notes is None else notes) else out).getvalue()


def cli_json(folder, *words, status=0):
    """Run `drawstream` with these words: what it wrote with `--json`, None where that is nothing."""
    place = folder / "result.json"
    place.unlink(missing_ok=True)
    assert main([*map(str, words), "--json", str(place)]) == status
    return json.loads(place.read_text()) if place.exists() else None
