"""The tables and figures of the three papers, by name, and the data that they need."""

from drawstream.tools.papers.autosampling import AUTOSAMPLING
from drawstream.tools.papers.budget import BUDGET
from drawstream.tools.papers.entry import PaperTable
from drawstream.tools.papers.swift import SWIFT

__all__ = ["DATA", "PAPERS", "TABLES", "find_table"]

PAPERS = {
    "ss": "Swift Sampler: Efficient Learning of Sampler by 10 Parameters (SS)",
    "as": "AutoSampling: Search for Effective Data Sampling Schedules (AS)",
    "bt": "How Important is Importance Sampling for Deep Budgeted Training? (BT)",
}

# How a folder of data comes to be. Held-out rows choose, so they are never those of the test set.
DATA = {
    "cifar10": "drawstream pack cifar-10-batches-bin $data/cifar10 --holdout 5000",
    "cifar100": "drawstream pack cifar-100-binary $data/cifar100 --holdout 5000",
    "svhn": "drawstream pack train_32x32.mat $data/svhn --holdout 5000; drawstream pack test_32x32.mat $data/svhn/test",
    "imagenet": "drawstream pack imagenet/train $data/imagenet --holdout 50000; drawstream pack imagenet/val "
    "$data/imagenet/test",
    "wikitext-2": "the files wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens",
    "mini-imagenet": "drawstream pack mini-imagenet/train $data/mini-imagenet --holdout 3840; drawstream pack "
    "mini-imagenet/test $data/mini-imagenet/test",
}


TABLES = {each.name: each for each in (*SWIFT, *AUTOSAMPLING, *BUDGET)}


def find_table(name: str, /) -> PaperTable:
    """Return a table or figure by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in TABLES:
        raise ValueError(
            f"no table or figure {name!r}: `drawstream papers list` shows all, such as {next(iter(TABLES))}"
        )
    return TABLES[name]
