"""The base class of the errors that drawstream names."""


class DrawstreamError(ValueError):
    """An error with a name of its own: catch this one to catch them all.

    It is a `ValueError`; errors of what happens while a job runs (a sample that cannot be read, a server that does not
    answer) are `RuntimeError` too. An argument that breaks its law raises a plain `ValueError` or `TypeError`, and the
    operating system's errors stay `OSError`.
    """
