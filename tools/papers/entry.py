"""A table or figure of a paper: what it shows, and the commands that make it."""

from dataclasses import dataclass
from string import Template

__all__ = ["PaperTable", "sets"]


def sets(name: str, /, noise: float = 0) -> str:
    """Return the options that name the catalogs of a data set, with a share of wrong labels in training."""
    noisy = f"{name}-{noise}" if noise else name
    return f"--data $data/{noisy}/train --held-out $data/{name}/holdout --test $data/{name}/test"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """A table or figure of a paper.

    Attributes:
        name: `ss-table-1`; the part before the first dash is the paper's.
        shows: Its subject, in a phrase.
        paper: The paper's numbers, in Markdown.
        data: Folders below `$data` that the command at the paper's size reads, as in the table of data.
        full: Commands at the paper's size, one a line, without `drawstream`; `$data` and `$out` are folders.
        small: Commands at a size for two cores: built-in data, small nets.
        differs: Where the command, or a default of ours, differs from the paper on purpose; a stand-in says so.
    """

    name: str
    shows: str
    paper: str
    data: tuple[str, ...] = ()
    full: str
    small: str
    differs: str = ""

    @property
    def title(self) -> str:
        """`SS, Table 1`."""
        paper, kind, number = self.name.split("-")
        return f"{paper.upper()}, {kind.capitalize()} {number}"

    def commands(self, out: str, *, small: bool, data: str = "data") -> list[str]:
        """Return the command lines without `drawstream`, each to be split as a shell does."""
        return Template(self.small if small else self.full).substitute(out=out, data=data).splitlines()
