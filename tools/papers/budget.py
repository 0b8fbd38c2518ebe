"""Tables and figures of the paper on budgeted training."""

from drawstream.tools.papers.entry import PaperTable, sets

_AUGMENTS = "standard,randaugment-bt,mixup,ricap"
_CIFAR = f"bench budget {sets('cifar10')} --model resnet18 --recipe bt --device gpu --seeds 0,1,2 -o $out"
_DIGITS = "bench budget --data digits --seeds 0,1,2 -o $out"
_ANOTHER = "CIFAR-100: the same line with `cifar100`."

BUDGET = (
    PaperTable(
        name="bt-table-1",
        shows="accuracy, time and speed-up without a fixed budget",
        paper="CIFAR-10 / CIFAR-100: SGD 94.58 / 74.56; p 94.41 / 74.44 (29 / 10 % faster), c 94.17 / 74.40, SB 93.90 / "
        "73.39 (40 / 16 % faster), OSGD 94.34 / 74.22.",
        data=("cifar10", "cifar100"),
        full=f"{_CIFAR} --methods p,c,sb,osgd --budgets .7,.8 --uniform-epochs 70 --schedules step --augments standard",
        small=f"{_DIGITS} --methods p,c,sb,osgd --budgets .8 --uniform-epochs 10 --schedules step --processes 1",
        differs=f"{_ANOTHER} The paper takes a budget of .9 there.",
    ),
    PaperTable(
        name="bt-table-2",
        shows="step and linear decay of the learning rate, budgets .2, .3, .5",
        paper="CIFAR-10, B = .3, linear / step: scan 93.55 / 93.06, unif 93.48 / 92.69, p 93.63 / 92.91, c 93.54 / 92.83, "
        "SB 94.06 / 93.86, OSGD 93.00 / 91.78; full 94.80 / 94.58.",
        data=("cifar10", "cifar100"),
        full=f"{_CIFAR} --methods scan,p,c,sb,osgd --budgets .2,.3,.5 --schedules step,linear --augments standard",
        small=f"{_DIGITS} --methods scan,p,c,sb,osgd --budgets .2,.3,.5 --schedules step,linear",
        differs=f"{_ANOTHER} SB's scoring passes are counted as work here, and not in the paper.",
    ),
    PaperTable(
        name="bt-table-3",
        shows="augmentations, budgets .2, .3, .5",
        paper="CIFAR-10, B = .3, unif: standard 93.48, RandAugment 93.78, mixup 94.49, RICAP 94.93; SB with RICAP on "
        "CIFAR-100 falls to 56.66 at B = .2.",
        data=("cifar10", "cifar100"),
        full=f"{_CIFAR} --methods p,sb --budgets .2,.3,.5 --schedules linear --augments {_AUGMENTS} --mix-order paper",
        small="bench budget --data digits --seeds 0 -o $out --methods p,sb --budgets .2,.5 --schedules linear --augments "
        f"{_AUGMENTS} --mix-order paper",
        differs=_ANOTHER,
    ),
    PaperTable(
        name="bt-table-4",
        shows="augmentations on SVHN and mini-ImageNet",
        paper="B = .3, unif, SVHN / mini-ImageNet: standard 96.78 / 72.19, RandAugment 97.50 / 73.04, mixup 97.04 / "
        "73.76, RICAP 97.62 / 75.15.",
        data=("svhn", "mini-imagenet"),
        full=f"{_CIFAR.replace('cifar10', 'svhn')} --no-flip --methods p,sb --budgets .2,.3,.5 --schedules linear "
        f"--augments {_AUGMENTS} --mix-order paper",
        small="bench budget --data fashion-mnist --seeds 0 --epochs 4 --methods p,sb --budgets .3 --schedules linear "
        f"--augments {_AUGMENTS} --mix-order paper -o $out",
        differs="mini-ImageNet: the same line with `mini-imagenet`, `--size 84` and flips. Small: Fashion-MNIST stands in.",
    ),
    PaperTable(
        name="bt-table-5",
        shows="wall clock at B = .3",
        paper="CIFAR-100, minutes: unif 47, p 48, SB 91; with RICAP 49, 49, 95.",
        data=("cifar100",),
        full=f"{_CIFAR.replace('cifar10', 'cifar100')} --methods p,sb --budgets .3 --schedules linear --augments {_AUGMENTS}",
        small="bench budget --data digits --seeds 0 --methods p,sb --budgets .3 --schedules linear --augments "
        f"{_AUGMENTS} --processes 1 -o $out",
    ),
    PaperTable(
        name="bt-table-6",
        shows="extreme budgets .05 and .1",
        paper="CIFAR-10, B = .05: unif 87.90, p 88.86, SB 79.45; with RandAugment 83.24, 83.94, 32.21; with RICAP 85.61, "
        "85.57, 44.93.",
        data=("cifar10", "cifar100", "mini-imagenet"),
        full=f"{_CIFAR} --methods p,sb --budgets .05,.1 --schedules linear --augments {_AUGMENTS} --mix-order paper",
        small="bench budget --data digits --seeds 0,1,2 -o $out --methods p,sb --budgets .05,.1 --schedules linear "
        "--augments standard,randaugment-bt,ricap --mix-order paper",
        differs=_ANOTHER,
    ),
    PaperTable(
        name="bt-figure-1",
        shows="core-sets against new rows in every epoch; the entropy of counts against accuracy",
        paper="(a), (b): unif beats every core-set at each budget; (c), (d): linear decay, the smoothing constant, the mean "
        "over epochs and augmentation each raise entropy and accuracy.",
        data=("cifar10", "cifar100"),
        full=f"{_CIFAR} --methods coreset-random,coreset-forgetting,coreset-k_center,p,p-last,p-no-smoothing --budgets .1,.2,.3,.5 --schedules step,linear "
        "--augments standard",
        small="bench budget --data digits --seeds 0,1,2 -o $out --methods coreset-random,coreset-forgetting,coreset-k_center,p,p-last,p-no-smoothing "
        "--budgets .1,.3 --schedules step,linear",
        differs=f"{_ANOTHER} Which core-sets the paper used is not recoverable.",
    ),
)
