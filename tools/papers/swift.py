"""Tables and figures of the Swift Sampler's paper."""

from drawstream.tools.papers.entry import PaperTable

_CIFAR10 = "--data $data/cifar10/train --held-out $data/cifar10/holdout --test $data/cifar10/test --device gpu -o $out"
_IMAGENET = _CIFAR10.replace("cifar10", "imagenet")
_SEARCHED = "uniform,swift,swift-cgf"

SWIFT = (
    PaperTable(
        name="ss-table-1",
        shows="top-1 with 0 to 40 % wrong labels, beside REED, MentorNet and L2RW",
        paper="CIFAR-10 / CIFAR-100, ResNet-18, noise .4: baseline 64.9 / 45.1, REED 68.6 / 50.7, MentorNet 76.6 / 56.9, "
        "L2RW 86.9 / 61.3, SS 88.0 / 62.3; without noise 93.3 / 74.3 and SS 93.8 / 75.2.",
        data=("cifar10", "cifar100"),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise 0,.1,.2,.3,.4 --seeds 0,1,2,3,4",
        small="bench noise --noise 0,.4 --methods uniform,reed-soft,mentornet,l2rw,swift,clean-only --seeds 0 -o $out",
        differs="CIFAR-100: the same line with `cifar100`. Our default transform is cdf with the loss and entropy; "
        "`swift-cgf` is the paper's. The control with the best epoch chosen on validation is always shown: it takes "
        "most of the gain away.",
    ),
    PaperTable(
        name="ss-table-2",
        shows="ImageNet top-1 and top-5, samplers searched on the model itself, on ResNet-18 and on ResNet-50",
        paper="top-1 baseline / SS: MobileNet-v2 70.4 / 71.9, ResNet-18 70.2 / 71.6, ResNet-50 76.3 / 77.7, ResNet-101 "
        "78.0 / 79.3, Swin-T 81.2 / 82.1, Swin-B 83.5 / 84.3; top-5 93.1 / 93.0 on ResNet-50.",
        data=("imagenet",),
        full=f"bench transfer {_IMAGENET} --model resnet18 --targets timm:mobilenetv2_100,timm:resnet50,timm:resnet101,"
        "timm:seresnext50_32x4d,timm:seresnext101_32x4d --noise 0 --recipe ss-imagenet --seeds 0,1,2,3,4",
        small="bench transfer --data fashion-mnist --model cnn --targets resnet8 --noise 0 --seeds 0 --epochs 5 -o $out",
        differs="The paper's samplers choose crops: `search swift --crop-filter`. Swin by its own recipe (AdamW): the "
        "same line with `--optimizer adamw`.",
    ),
    PaperTable(
        name="ss-table-3",
        shows="face verification",
        paper="MS1M → YTF: ResNet-50 97.41, SS 97.50; ResNet-101 97.54, SS 97.74.",
        full="bench novel --data $data/cifar10 --methods uniform,swift-cgf --model resnet18 --seeds 0,1,2,3,4 -o $out",
        small="bench novel --methods uniform,swift-cgf --seeds 0,1,2 -o $out",
        data=("cifar10",),
        differs="A stand-in: MS1M cannot be had. Embeddings of classes that were never trained on are compared pair by pair.",
    ),
    PaperTable(
        name="ss-table-4",
        shows="rank correlation of fine-tuned scores and training from scratch",
        paper="SR(RD) .10 (−.41 to .49), SR(SS) .72 (.43 to .91), TR 1.6 (1 to 3); CIFAR-10 with 40 % noise.",
        data=("cifar10",),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise .4 --rank-study 10 --seeds 0,1,2,3,4",
        small="bench noise --data digits --noise .4 --methods uniform --rank-study 10 --seeds 0,1,2,3,4 -o $out",
    ),
    PaperTable(
        name="ss-table-5",
        shows="convergence speed on a large set",
        paper="LAION subset: top-1 72.4, SS 74.7; top-5 90.1, SS 92.3; speed 125 % of the baseline's.",
        full="",
        small="",
        differs="A stand-in: LAION-5B and the paper's model cannot be had, so the speed is taken on any catalog: steps "
        "to the uniform run's final accuracy.",
    ),
    PaperTable(
        name="ss-table-6",
        shows="few-shot classification, 1, 5 and 10 shots",
        paper="mini-ImageNet, ResNet-50: 47.6 / 63.1 / 70.3, SS 52.8 / 67.4 / 73.4.",
        full="bench novel --data $data/mini-imagenet --novel 20 --shots 1,5,10 --recipe ss-fewshot --model timm:resnet50 "
        "--seeds 0,1,2,3,4 -o $out",
        small="bench novel --data digits --shots 1,5,10 --methods uniform,swift-cgf --seeds 0,1,2 -o $out",
        data=("mini-imagenet",),
        differs="The paper does not say how it classifies: ours is the nearest class mean of embeddings.",
    ),
    PaperTable(
        name="ss-table-7",
        shows="training time of each method relative to the baseline",
        paper="SS 1.10 to 1.12, REED 1.02 to 1.04, MentorNet 1.05 to 1.07, L2RW 1.07 to 1.10.",
        data=("cifar10",),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise 0,.1,.2,.3,.4 --seeds 0",
        small="bench noise --noise 0 --methods uniform,reed-soft,mentornet,l2rw,swift --seeds 0 -o $out",
        differs="Our table has the search apart from the training: a sampler's training costs what uniform's does.",
    ),
    PaperTable(
        name="ss-table-8",
        shows="number of segments of H",
        paper="CIFAR-10, noise .2: S = 2 89.2, 4 90.4, 6 90.3, 8 90.1.",
        data=("cifar10",),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise .2 --methods segments --seeds 0,1,2,3,4",
        small="bench noise --data digits --noise .2 --methods segments --seeds 0,1,2 -o $out",
    ),
    PaperTable(
        name="ss-table-9",
        shows="number of candidates",
        paper="CIFAR-10, noise .2: 20 89.5, 40 90.4, 60 90.6, 80 90.7.",
        data=("cifar10",),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise .2 --methods candidates --seeds 0,1,2,3,4",
        small="bench noise --data digits --noise .2 --methods candidates --seeds 0,1,2 -o $out",
    ),
    PaperTable(
        name="ss-table-10",
        shows="backbones, with balanced accuracy",
        paper="CIFAR-10, noise .2, top-1 / balanced: EfficientNet-B0 90.4 / 85.3, SS 91.7 / 87.6; ResNet-18 88.1 / 82.7, "
        "SS 89.5 / 85.0; MobileNet-v2 83.5 / 78.2, SS 84.9 / 80.1.",
        full="",
        small="",
    ),
    PaperTable(
        name="ss-table-11",
        shows="language modelling, features word frequency and perplexity",
        paper="WikiText-2, perplexity on validation / test: 24.1 / 23.5, SS 22.4 / 21.7.",
        full="bench language --text $data/wikitext-2 --length 256 --vocabulary 33278 --width 512 --layers 8 --heads 8 "
        "--epochs 40 --global-batch 64 --trials 40 --device gpu --seeds 0,1,2 -o $out",
        small="bench language --seeds 0,1,2 -o $out",
        data=("wikitext-2",),
        differs="Wiki-GPT is not described: ours is a small GPT. Small: Python's own reference stands in for WikiText-2.",
    ),
    PaperTable(
        name="ss-figure-1",
        shows="wrong labels and sampling probability over loss and entropy",
        paper="wrong labels lie at high loss and low entropy; the sampler draws none of them.",
        data=("cifar10",),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise .4 --methods swift-cgf --seeds 0",
        small="bench noise --noise .4 --methods uniform,swift-cgf --seeds 0 -o $out",
        differs="The figure is in the page that the benchmark writes.",
    ),
    PaperTable(
        name="ss-figure-2",
        shows="crops of least probability, and probability over the loss's rank",
        paper="crops of background are hardly drawn; the loss at 30 % of the ranks has the highest probability.",
        full="",
        small="",
    ),
    PaperTable(
        name="ss-figure-3",
        shows="candidates by random search, REINFORCE, Bayesian optimisation with cdf and with cgf",
        paper="random < REINFORCE < SS(cdf) < SS(cgf), CIFAR-10 with 40 % noise.",
        data=("cifar10",),
        full=f"bench noise {_CIFAR10} --model resnet18 --recipe ss-cifar --noise .4 --methods "
        "swift-random,swift-reinforce,swift,swift-cgf --seeds 0,1,2,3,4",
        small="bench noise --data digits --noise .4 --methods swift-random,swift-reinforce,swift,swift-cgf --seeds 0,1,2 "
        "-o $out",
    ),
)
