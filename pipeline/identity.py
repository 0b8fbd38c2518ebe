"""Compare the identities of jobs: what decides a result, as plain JSON values by name.

    identity = {"catalog": "3f2a…", "recipe": {"epochs": 20, "lr": 0.05}, "global_batch": 128, …}

A job keeps its identity in its checkpoint, study or record. It goes on, or is found finished, only where the identity
that it is started with is equal; `drawstream.tools.runs.identity` says what is in it. None stands for what is not
there, so an entry that a later version adds does not part it from jobs that had no such thing.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["ANOTHER", "difference", "plain", "refuse_other"]

Identity = Mapping[str, Any]
ANOTHER = "give another output folder (-o)"
_HASH = re.compile(r"[0-9a-f]{32,}")
_SHOWN = 12  # digits of a hash in messages


def plain(identity: Identity, /) -> dict[str, Any]:
    """Return the identity as JSON gives it back: lists in place of tuples, strings as keys.

    Raises:
        TypeError: A value is not plain.
    """
    found: dict[str, Any] = json.loads(json.dumps(dict(identity)))
    return found


def difference(theirs: Identity | None, mine: Identity, /) -> str:
    """Return what differs from an earlier job, both sides of each: `recipe.lr 0.1, not 0.05`; "" where nothing.

    An earlier version kept no identity: there `theirs` is None.
    """
    if theirs is None:
        return "an earlier version, which kept no identity of its jobs"
    there, here = _leaves(plain(theirs)), _leaves(plain(mine))
    differing = [name for name in dict.fromkeys([*here, *there]) if there.get(name) != here.get(name)]
    return "; ".join(f"{name} {_text(there.get(name))}, not {_text(here.get(name))}" for name in differing)


def refuse_other(where: object, theirs: Identity | None, mine: Identity, /, remedy: str = ANOTHER) -> None:
    """Refuse to go on with a job of another identity, which the file or study `where` holds.

    Raises:
        ValueError: They differ; one line shows both sides of what differs.
    """
    if told := difference(theirs, mine):
        by = "by" if theirs is None else "with"
        raise ValueError(f"{where}: this job was started {by} {told}: {remedy}")


def _leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested tables by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found


def _text(value: Any) -> str:
    """A value in a message; a hash by its first digits."""
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value[:_SHOWN]
    return "none" if value is None else repr(value)
