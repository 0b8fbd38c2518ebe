"""Refusals: the error, and the one line that says why."""

import pytest


def refused(text, act, /, *given, error=ValueError, **options):
    """Check that a call is refused with a message of one line that matches a pattern; gives the message."""
    with pytest.raises(error, match=text) as caught:
        act(*given, **options)
    message = str(caught.value)
    assert "\n" not in message, message
    return message
