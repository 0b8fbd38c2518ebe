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

_CIFAR = "drawstream pack $data/raw/cifar-10-batches-bin $data/cifar10"

# The lines that make the folders of the papers' data from what their authors publish, by data set. Held-out rows choose,
# so they are never those of the test set.
DATA = {
    "cifar10": [f"{_CIFAR} --holdout 5000", f"{_CIFAR}/test --split test"],
    **{f"cifar10-{rate}": [f"{_CIFAR}-{rate} --holdout 5000 --label-noise {rate}"] for rate in (0.1, 0.2, 0.3, 0.4)},
    "cifar100": [
        "drawstream pack $data/raw/cifar-100-binary $data/cifar100 --holdout 5000",
        "drawstream pack $data/raw/cifar-100-binary $data/cifar100/test --split test",
    ],
    "svhn": [
        "drawstream pack $data/raw/svhn $data/svhn --holdout 5000",
        "drawstream pack $data/raw/svhn $data/svhn/test --split test",
    ],
    "imagenet": [
        "drawstream pack $data/raw/imagenet/train $data/imagenet --holdout 50000",
        "drawstream pack $data/raw/imagenet/val $data/imagenet/test",
    ],
    "mini-imagenet": [
        "drawstream pack $data/raw/mini-imagenet/train $data/mini-imagenet --holdout 3840",
        "drawstream pack $data/raw/mini-imagenet/test $data/mini-imagenet/test",
    ],
    "wikitext-2": ["mv $data/raw/wikitext-2 $data/wikitext-2"],
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
