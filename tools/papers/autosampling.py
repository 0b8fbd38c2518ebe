"""Tables and figures of AutoSampling's paper."""

from drawstream.tools.papers.entry import PaperTable

_CIFAR100 = (
    "--data $data/cifar100/train --held-out $data/cifar100/holdout --test $data/cifar100/test --device gpu -o $out"
)
_CIFAR10, _IMAGENET = (_CIFAR100.replace("cifar100", name) for name in ("cifar10", "imagenet"))
_SMALL = "bench auto --data digits --noise 0 --seeds 0,1,2 -o $out"

AUTOSAMPLING = (
    PaperTable(
        name="as-table-1",
        shows="numbers of children, intervals and kinds of exploration",
        paper="CIFAR-100, ResNet-18: uniform 78.46; 20 children, 80 batches, random 78.76; 20 batches 78.99; 80 children "
        "79.09; mixture 79.44. ResNet-50: 79.70, 80.55, 81.05, 81.19, 81.53.",
        data=("cifar100",),
        full=f"bench auto {_CIFAR100} --model resnet18 --recipe as-cifar --noise 0 --population 20 --methods "
        "uniform,random,mixture --seeds 0,1,2",
        small=f"{_SMALL} --methods uniform,best-of,random,mixture --population 8",
    ),
)
