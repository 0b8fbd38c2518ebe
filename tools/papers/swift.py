"""Tables and figures of the Swift Sampler's paper."""

from drawstream.tools.papers.entry import PaperTable, sets


def _cifar(rest: str, noise: float = 0, seeds: str = "0,1,2,3,4", models: str = "resnet18") -> str:
    """A line of `bench noise` at the paper's size."""
    sizes = f"--recipe ss-cifar --device gpu --models {models} --seeds {seeds}"
    return f"bench noise {sets('cifar10', noise)} {sizes} -o $out/{noise} {rest}".rstrip()


_RATES = (0, 0.1, 0.2, 0.3, 0.4)
_DIGITS = "bench noise --data digits --seeds 0,1,2 -o $out"

SWIFT = (
    PaperTable(
        name="ss-table-1",
        shows="top-1 with 0 to 40 % wrong labels, beside REED, MentorNet and L2RW",
        paper="CIFAR-10 / CIFAR-100, ResNet-18, noise .4: baseline 64.9 / 45.1, REED 68.6 / 50.7, MentorNet 76.6 / 56.9, "
        "L2RW 86.9 / 61.3, SS 88.0 / 62.3; without noise 93.3 / 74.3, SS 93.8 / 75.2.",
        data=("cifar10", "cifar10-0.1", "cifar10-0.2", "cifar10-0.3", "cifar10-0.4"),
        full="\n".join(_cifar("", rate) for rate in _RATES),
        small="bench noise --noise .4 --methods uniform,reed-soft,l2rw,mentornet-pd,mentornet-dd,swift-cgf,clean-only "
        "--seeds 0 -o $out",
        differs="CIFAR-100: the same line with `cifar100`. `swift` has cdf as its transform, `swift-cgf` the paper's cgf. "
        "Early stopping is always beside them: it takes much of the gain away, and the paper does not have it.",
    ),
    PaperTable(
        name="ss-table-2",
        shows="ImageNet, samplers searched on ResNet-18 and carried to larger models",
        paper="top-1, baseline / SS: MobileNet-v2 70.4 / 71.9, ResNet-18 70.2 / 71.6, ResNet-50 76.3 / 77.7, ResNet-101 "
        "78.0 / 79.3, Swin-T 81.2 / 82.1, Swin-B 83.5 / 84.3; top-5 of ResNet-50 93.1 / 93.0.",
        data=("imagenet",),
        full=f"bench transfer {sets('imagenet')} --recipe ss-imagenet --device gpu -o $out --model resnet18 "
        "--targets timm:mobilenetv2_100,timm:resnet50,timm:resnet101,timm:seresnext50_32x4d --seeds 0,1,2,3,4",
        small="bench transfer --data digits --noise 0 --model mlp --targets cnn --seeds 0,1,2 -o $out",
        differs="The paper chooses crops: `search swift --crop-filter` and `train --crop-filter` do on one model. Swin has "
        "a recipe of its own: `train --optimizer adamw`. Small: digits stand in.",
    ),
    PaperTable(
        name="ss-table-3",
        shows="face verification",
        paper="MS1M → YTF: ResNet-50 97.41, SS 97.50; ResNet-101 97.54, SS 97.74.",
        data=("cifar10",),
        full="bench novel --data $data/raw/cifar-10-batches-bin --methods uniform,swift-cgf --model resnet18 --seeds 0,1,2,3,4 -o $out",
        small="bench novel --data digits --methods uniform,swift-cgf --seeds 0,1,2 -o $out",
        differs="A stand-in: MS1M and YTF cannot be had. Pairs of images of classes that were never trained on are "
        "verified by their embeddings.",
    ),
    PaperTable(
        name="ss-table-4",
        shows="rank correlation between fine-tuned scores and training from scratch",
        paper="CIFAR-10 with 40 % noise: SR(RD) .10 (−.41 to .49), SR(SS) .72 (.43 to .91), TR 1.6 (1 to 3).",
        data=("cifar10",),
        full=_cifar("--methods swift-cgf --rank-study 10", 0.4),
        small=f"{_DIGITS.replace('0,1,2', '0,1,2,3,4')} --noise .4 --methods swift-cgf --rank-study 10",
    ),
    PaperTable(
        name="ss-table-5",
        shows="convergence: steps to the uniform run's final accuracy",
        paper="500 million images of LAION: top-1 72.4, SS 74.7; top-5 90.1, SS 92.3; speed 125 % of the baseline's.",
        data=("imagenet",),
        full=f"bench noise {sets('imagenet')} --recipe ss-imagenet --device gpu -o $out --models resnet18 "
        "--methods uniform,swift-cgf --seeds 0",
        small=f"{_DIGITS} --noise 0,.2 --methods uniform,swift-cgf",
        differs="A stand-in: LAION-5B and the paper's model cannot be had. `speed` is the uniform run's steps over those "
        "that the method takes to its accuracy.",
    ),
    PaperTable(
        name="ss-table-6",
        shows="few-shot classification, 1, 5 and 10 shots",
        paper="mini-ImageNet, ResNet-50: 47.6 / 63.1 / 70.3, SS 52.8 / 67.4 / 73.4.",
        data=("mini-imagenet",),
        full="bench novel --data $data/raw/mini-imagenet --novel 20 --shots 1,5,10 --methods uniform,swift-cgf --recipe ss-fewshot --model "
        "timm:resnet50 --device gpu --seeds 0,1,2,3,4 -o $out",
        small="bench novel --methods uniform,swift-cgf --shots 1,5,10 --seeds 0 -o $out",
        differs="The paper does not say how it classifies: ours takes the nearest class mean of embeddings. Small: "
        "Fashion-MNIST, four classes held out.",
    ),
    PaperTable(
        name="ss-table-7",
        shows="training time of each method relative to the baseline's",
        paper="SS 1.10 to 1.12, REED 1.02 to 1.04, MentorNet 1.05 to 1.07, L2RW 1.07 to 1.10.",
        data=("cifar10",),
        full="\n".join(_cifar("", rate, "0") for rate in _RATES),
        small="bench noise --data digits --noise .4 --methods uniform,reed-soft,reed-hard,l2rw,mentornet-pd,swift-cgf "
        "--seeds 0,1,2 -o $out",
        differs="`train s` is the training alone, `search ÷ training` the search: a sampler's training costs what uniform's "
        "does. MentorNet DD trains its network besides.",
    ),
    PaperTable(
        name="ss-table-8",
        shows="number of segments of H",
        paper="CIFAR-10, noise .2: S = 2 89.2, 4 90.4, 6 90.3, 8 90.1.",
        data=("cifar10",),
        full=_cifar("--methods uniform,swift-cgf --segments 2,4,6,8", 0.2),
        small=f"{_DIGITS} --noise .2 --methods uniform,swift-cgf --segments 2,4,6,8",
    ),
    PaperTable(
        name="ss-table-9",
        shows="number of candidates",
        paper="CIFAR-10, noise .2: 20 89.5, 40 90.4, 60 90.6, 80 90.7.",
        data=("cifar10",),
        full=_cifar("--methods uniform,swift-cgf --trials 20,40,60,80", 0.2),
        small=f"{_DIGITS} --noise .2 --methods uniform,swift-cgf --trials 10,20,40",
    ),
    PaperTable(
        name="ss-table-10",
        shows="backbones, with balanced accuracy",
        paper="CIFAR-10, noise .2, top-1 / balanced: EfficientNet-B0 90.4 / 85.3, SS 91.7 / 87.6; ResNet-18 88.1 / 82.7, "
        "SS 89.5 / 85.0; MobileNet-v2 83.5 / 78.2, SS 84.9 / 80.1.",
        data=("cifar10",),
        full=_cifar(
            "--methods uniform,swift-cgf",
            0.2,
            "0,1,2",
            "timm:efficientnet_b0+small-stem,resnet18,timm:mobilenetv2_100+small-stem",
        ),
        small=f"{_DIGITS} --noise .2 --methods uniform,swift-cgf --models mlp,cnn",
        differs="CIFAR-10's test set has as many images of each class, so balanced accuracy is top-1 there; how the "
        "paper's differ by five points is not said.",
    ),
    PaperTable(
        name="ss-table-11",
        shows="language modelling, features word frequency and perplexity",
        paper="WikiText-2, perplexity on validation / test: 24.1 / 23.5, SS 22.4 / 21.7.",
        data=("wikitext-2",),
        full="bench language --text $data/wikitext-2 --length 256 --vocabulary 33278 --width 512 --layers 8 --heads 8 "
        "--epochs 40 --global-batch 64 --trials 40 --amp bf16 --device gpu --seeds 0,1,2 -o $out",
        small="bench language --seeds 0 -o $out",
        differs="The paper's model is not described: ours is a small GPT. Small: Python's own reference stands in.",
    ),
    PaperTable(
        name="ss-figure-1",
        shows="wrong labels, and the sampler's probability, over loss and entropy",
        paper="wrong labels lie at high loss and low entropy; the sampler hardly draws them.",
        data=("cifar10",),
        full=_cifar("--methods uniform,swift-cgf", 0.4, "0"),
        small="bench noise --noise .4 --methods uniform,swift-cgf --seeds 0 -o $out",
        differs="The figure is in the page that `drawstream report` makes of the sampler's run.",
    ),
    PaperTable(
        name="ss-figure-2",
        shows="probability over the rank of the loss",
        paper="on ImageNet the crops at 30 % of the ranks have the highest probability, background is hardly drawn.",
        data=("imagenet",),
        full=f"bench noise {sets('imagenet')} --recipe ss-imagenet --device gpu -o $out --models resnet18,timm:resnet50 "
        "--methods uniform,swift-cgf --seeds 0",
        small="bench noise --noise 0 --methods uniform,swift-cgf --seeds 0 -o $out",
        differs="The figure, and the images of least probability, are in the page that `drawstream report` makes of the "
        "sampler's run; crops are shown where the features are of crops.",
    ),
    PaperTable(
        name="ss-figure-3",
        shows="candidates of random search, REINFORCE, and Bayesian optimisation with cdf and with cgf",
        paper="random < REINFORCE < SS(cdf) < SS(cgf), CIFAR-10 with 40 % noise.",
        data=("cifar10",),
        full=_cifar("--methods uniform,agents", 0.4),
        small=f"{_DIGITS} --noise .4 --methods uniform,agents",
    ),
)
