"""Tables and figures of AutoSampling's paper."""

from drawstream.tools.papers.entry import PaperTable, sets


def _auto(data: str, folder: str, rest: str, seeds: str = "0,1,2") -> str:
    """A line of `bench auto` at the paper's size."""
    recipe = "as-imagenet" if data == "imagenet" else "as-cifar"
    return f"bench auto {sets(data)} --recipe {recipe} --device gpu --seeds {seeds} -o $out/{folder} {rest}"


def _small(rest: str, folder: str = "", data: str = "digits", seeds: str = "0,1,2") -> str:
    return f"bench auto --data {data} --noise 0 --seeds {seeds} -o $out{folder} {rest}"


def _figure(number: int, shows: str, paper: str) -> PaperTable:
    """A figure of the page of one search."""
    return PaperTable(
        name=f"as-figure-{number}",
        shows=shows,
        paper=paper,
        data=("cifar100",),
        full=_auto("cifar100", "resnet18", "--model resnet18 --population 20 --methods mixture", "0"),
        small=_small("--methods mixture", seeds="0"),
        differs="The figure is in the page of the search that the benchmark writes.",
    )


_KINDS = "--methods uniform,random,mixture"

AUTOSAMPLING = (
    PaperTable(
        name="as-table-1",
        shows="numbers of children, intervals and kinds of exploration",
        paper="CIFAR-100, ResNet-18: uniform 78.46; 20 children, 80 batches, random 78.76; 20 batches 78.99; 80 children "
        "79.09; mixture 79.44. ResNet-50: 79.70, 80.55, 81.05, 81.19, 81.53.",
        data=("cifar100",),
        full="\n".join(
            [
                _auto("cifar100", "20", f"--model resnet18 --population 20 {_KINDS}"),
                _auto("cifar100", "80-batches", "--model resnet18 --population 20 --interval 80 --methods random"),
                _auto("cifar100", "80-children", "--model resnet18 --population 80 --methods random"),
            ]
        ),
        small="\n".join(
            [
                _small("--population 4 --methods uniform,best-of,random,mixture", "/4"),
                _small("--population 4 --interval 40 --methods random", "/40-batches"),
                _small("--population 8 --methods random", "/8-children"),
            ]
        ),
        differs="ResNet-50 and DenseNet-121: the same lines with `--model timm:resnet50` or `timm:densenet121`, each with "
        "`+small-stem`. `best-of`, the best of as many plain trainings, is the control at equal work, which the paper "
        "has not.",
    ),
    PaperTable(
        name="as-table-2",
        shows="CIFAR-10",
        paper="ResNet-18: uniform 93.01, random 95.86, mixture 95.80; ResNet-50: 93.60, 96.10, 96.09.",
        data=("cifar10",),
        full=_auto("cifar10", "resnet18", f"--model resnet18 --population 20 {_KINDS}"),
        small=_small(_KINDS, data="fashion-mnist", seeds="0"),
        differs="The paper's uniform run is 2 points below what the recipe usually gives. Small: Fashion-MNIST stands in.",
    ),
    PaperTable(
        name="as-table-3",
        shows="ImageNet",
        paper="ResNet-18: uniform 70.38, random 72.07, mixture 72.91; ResNet-34: 74.09, 76.11, 76.92.",
        data=("imagenet",),
        full=_auto("imagenet", "resnet18", f"--model resnet18 --population 20 {_KINDS}", "0"),
        small=_small(f"{_KINDS} --population 2"),
        differs="Small: digits stand in.",
    ),
    PaperTable(
        name="as-table-4",
        shows="STATIC distribution against DYNAMIC schedule",
        paper="CIFAR-100, ResNet-18: uniform 78.46, STATIC 78.80, DYNAMIC 79.44; ResNet-50: 79.70, 80.21, 81.53.",
        data=("cifar100",),
        full=_auto(
            "cifar100", "resnet18", "--model resnet18 --population 20 --methods uniform,static,mixture,replay-other"
        ),
        small=_small("--methods uniform,static,mixture,replay-other"),
        differs="DYNAMIC is `mixture`: what the search itself ends with. `replay-other` trains on its schedule from other "
        "initial weights: whether the order itself carries anything.",
    ),
    PaperTable(
        name="as-table-5",
        shows="distributions carried to another model",
        paper="ResNet-50 on CIFAR-100: uniform 79.70; from ResNet-18 80.27, ResNet-50 80.21, DenseNet-121 80.47.",
        data=("cifar100",),
        full=_auto(
            "cifar100",
            "resnet18",
            "--model timm:resnet50+small-stem --sources resnet18,timm:densenet121+small-stem --population 20 --methods uniform,static",
        ),
        small=_small("--model cnn --sources mlp --methods uniform,static"),
    ),
    PaperTable(
        name="as-table-6",
        shows="beside DLIS and RAIS",
        paper="WRN-28-2: DLIS 66.0 → 68.0, AutoSampling 73.37 → 76.24; ResNet-18: RAIS 76.4 → 76.4, AutoSampling 78.46 → "
        "79.44.",
        data=("cifar100",),
        full=_auto("cifar100", "wrn", "--model wrn-28-2 --population 20 --methods uniform,dlis,rais,mixture"),
        small=_small("--methods uniform,dlis,rais,mixture"),
        differs="RAIS has no public code: ours is a reconstruction, and says so.",
    ),
    _figure(
        2,
        "counts of rows in 500 segments at three epochs",
        "histograms of epochs 80, 160 and 240 differ: what is drawn changes with the training.",
    ),
    _figure(
        3,
        "images at the head and the tail of the counts",
        "often drawn images are harder to recognise than those that are hardly drawn.",
    ),
    _figure(4, "how often 500 rows are drawn against their loss, at three epochs", "no clear correlation."),
)
