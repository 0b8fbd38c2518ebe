"""How a model is trained: what a run is given, and what decides its learning rate.

Notation
    s, n   step from 0, and steps of the run;  e = s T / n epochs done of T
    η      learning rate:  lr · min(1, (s + 1) / w) · f(s), with w steps of warm-up
    f      cosine  (1 + cos(π s / n)) / 2
           linear  from 1 to 1e-6 / lr, which the last step (s = n − 1) has
           step    gamma^k, k milestones at or before e; without milestones 1/3 and 2/3 of T
           constant 1

The papers' recipes (`RECIPES`, the one table that command line, guides and experiments read):

============ ====================================================================================================
ss-cifar     Swift Sampler (SS), §4.1. ÷10 at 40 and 80 as printed: the second never acts
ss-imagenet  SS, §4.2, of CNNs (Swin has its own recipe, with AdamW); L2 as in Goyal et al. 2017
ss-fewshot   SS, Tab. 6; L2 as in the paper's §4.3
as-cifar     AutoSampling (Sun et al., ICML 2021), §5.1: ÷10 every 60 epochs
as-imagenet  AutoSampling, §5.1; the paper computes in FP16: --amp fp16 on a GPU
bt           Budgeted training (Arazo et al. 2021), §4.1; plain momentum and L2 are those of the authors' code, and
             its other schedule is --schedule step
============ ====================================================================================================

Not stated in the papers, so a choice: momentum and L2 of AutoSampling, L2 on ImageNet and in few-shot learning, crops
and flips on CIFAR of SS and AutoSampling, and the ranges of the colour jitter.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

if TYPE_CHECKING:
    from drawstream.tools.training.setup import Setup

Amp = Literal["off", "bf16", "fp16"]
Schedule = Literal["cosine", "linear", "step", "constant"]
LOSSES = ("ce", "reed-soft", "reed-hard", "l2rw", "mentornet-pd", "mentornet-dd", "drw")
LAST = 1e-6  # learning rate of the last step under `linear` (Arazo et al. 2021, §4.1)


def _at_least_zero(value: float) -> bool:
    return 0 <= value < math.inf


def _share(value: float) -> bool:
    return 0 <= value < 1


_LAWS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{name: (lambda value: value >= 1, f"{name} >= 1") for name in ("epochs", "accumulate")},
    "lr": (lambda value: 0 < value < math.inf, "lr > 0"),
    **{name: (_at_least_zero, f"{name} >= 0") for name in ("weight_decay", "warmup_epochs", "clip_grad")},
    **{name: (_share, f"0 <= {name} < 1") for name in ("momentum", "label_smoothing", "ema")},
    "gamma": (lambda value: 0 < value <= 1, "0 < gamma <= 1"),
}
_KNOWN = {"schedule": get_args(Schedule), "amp": get_args(Amp), "optimizer": ("sgd", "adamw")}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Passes over the stream (each as long as the stream's epoch), T.
        lr: Learning rate at the start.
        schedule: Learning rate over the run, see the module.
        momentum: Of SGD, 0.9 in all papers; AdamW's first beta.
        weight_decay: L2 of SGD, decoupled of AdamW; on all parameters, see `no_decay_norm`.
        seed: Of the initial weights.
        amp: `bf16` or `fp16` autocast; fp16 scales the loss.
        optimizer: `sgd` or `adamw`.
        nesterov: Nesterov's momentum; plain with a momentum of 0.
        milestones: Epochs after which `step` divides; none: at 1/3 and 2/3.
        gamma: Factor at each milestone.
        warmup_epochs: Epochs in which the learning rate grows linearly from 0.
        label_smoothing: Share ε of the target that goes to all classes alike, in [0, 1).
        no_decay_norm: No weight decay on biases and parameters of norms: those of fewer than two dimensions.
        ema: Decay of the average of the weights that is evaluated and saved; 0 averages nothing.
        clip_grad: Largest norm of the gradient over all parameters; 0 clips nothing.
        accumulate: Parts in which a batch goes through the model; their gradients add up to that of the whole.
        channels_last: Images and weights lie pixel by pixel in memory: faster convolutions.
        compile: Train through `torch.compile`.
        loss: Cross-entropy, or one for wrong labels (`methods.robust`, `methods.mentornet`) or for long tails
            (`methods.long_tail`).
        name: Named recipe that it was made from; decides nothing by itself.
    """

    epochs: int = 20
    lr: float = 0.05
    schedule: Schedule = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    amp: Amp = "off"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    nesterov: bool = True
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    no_decay_norm: bool = False
    ema: float = 0.0
    clip_grad: float = 0.0
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    loss: str = "ce"
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, (holds, law) in _LAWS.items():
            if not holds(getattr(self, name)):
                raise ValueError(f"`{law}` must hold, but got {getattr(self, name)}")
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but got {getattr(self, name)!r}")
        if self.loss not in LOSSES and not re.fullmatch(r"[\w.]+:\w+", self.loss):
            raise ValueError(f"`loss` must be one of {', '.join(LOSSES)} or module:factory, but got {self.loss!r}")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) <= 0:
            raise ValueError(f"`milestones` must grow and be above 0, but got {list(self.milestones)}")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones go with the schedule step, but it is {self.schedule}: leave out one of them")
        if max(self.milestones, default=0) > self.epochs:
            raise ValueError(f"`milestones` must lie in the {self.epochs} epochs, but got {list(self.milestones)}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"`warmup_epochs <= {self.epochs} epochs` must hold, but got {self.warmup_epochs:g}")

    def lr_at(self, step: int, steps: int, /) -> float:
        """Return the learning rate of step s of n, s from 0."""
        warm = self.warmup_epochs * steps / self.epochs
        return self.lr * min(1.0, (step + 1) / warm if warm else 1.0) * self._factor(step, steps)

    def _factor(self, step: int, steps: int) -> float:
        match self.schedule:
            case "cosine":
                return (1 + math.cos(math.pi * step / steps)) / 2
            case "linear":
                return 1 + (LAST / self.lr - 1) * step / max(steps - 1, 1)
            case "step" if self.milestones:
                done = step * self.epochs / steps
                return math.pow(self.gamma, sum(each <= done for each in self.milestones))
            case "step":
                return math.pow(self.gamma, 3 * step // steps)
            case "constant":
                return 1.0

    def shortened(self, epochs: int, /) -> Self:
        """Return the recipe of a shorter or longer run; milestones and warm-up keep their share of it."""
        part = epochs / self.epochs
        milestones = tuple(each * part for each in self.milestones)
        return replace(self, epochs=epochs, milestones=milestones, warmup_epochs=self.warmup_epochs * part)

    def tuning(self, epochs: int, lr: float, /) -> Self:
        """Return the recipe of a fine-tuning: all of this one but the learning rate's course, a cosine here."""
        return replace(self, epochs=epochs, lr=lr, schedule="cosine", milestones=(), warmup_epochs=0.0, compile=False)

    @property
    def jitter(self) -> tuple[float, ...]:
        """Colour jitter of the named recipe; empty without one."""
        return tuple(RECIPES.get(self.name, {}).get("jitter", ()))

    def settings(self) -> dict[str, Any]:
        """Return all that decides a result, by name, as a record keeps it."""
        found = {name: value for name, value in asdict(self).items() if name != "name"}
        return found | {"milestones": list(self.milestones)}


def _entry(epochs: int, lr: float, batch: int, l2: float, schedule: str, **more: Any) -> dict[str, Any]:
    """Options by name; SGD with Nesterov's momentum of .9, crops and flips, if `more` does not say otherwise."""
    course = {"epochs": epochs, "lr": lr, "schedule": schedule, "global_batch": batch, "weight_decay": l2}
    return {**course, "optimizer": "sgd", "momentum": 0.9, "nesterov": True, "augment": "standard", **more}


_JITTER = {"jitter": (0.4, 0.4, 0.4, 0.1)}
RECIPES: dict[str, dict[str, Any]] = {
    "ss-cifar": _entry(80, 0.1, 128, 1e-3, "step", milestones=(40.0, 80.0), gamma=0.1),
    "ss-imagenet": _entry(100, 0.1, 2048, 1e-4, "step", milestones=(30.0, 60.0, 90.0), gamma=0.1, **_JITTER),
    "ss-fewshot": _entry(50, 0.01, 128, 5e-4, "step", milestones=(20.0, 40.0), gamma=0.1),
    "as-cifar": _entry(240, 0.1, 128, 5e-4, "step", milestones=(60.0, 120.0, 180.0), gamma=0.1),
    "as-imagenet": _entry(100, 0.2, 512, 1e-4, "cosine"),
    "bt": _entry(200, 0.1, 128, 1e-4, "linear", nesterov=False),
}
BESIDE = ("global_batch", "augment", "jitter")  # entries that are no fields of `Recipe`


def named_recipe(name: str, /, **changed: Any) -> Recipe:
    """Return a paper's recipe with changes; batch and augmentation stand beside it in `RECIPES`.

    Raises:
        ValueError: No such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}: give one of {', '.join(RECIPES)}")
    values = {key: value for key, value in RECIPES[name].items() if key not in BESIDE}
    return Recipe(**(values | changed), name=name)


def overrides(recipe: Recipe, setup: "Setup", /) -> dict[str, Any] | None:
    """Return the name of a recipe and what a run has otherwise, as its record keeps it; None without a name."""
    if not recipe.name:
        return None
    where = {"jitter": setup.framing, "global_batch": setup, "augment": setup}
    own = {key: getattr(where.get(key, recipe), key) for key in RECIPES[recipe.name]}
    changed = {key: value for key, value in own.items() if value != RECIPES[recipe.name][key]}
    return {"name": recipe.name, "overrides": changed}


def guide_table(recipes: Mapping[str, Mapping[str, Any]] = RECIPES) -> str:
    """The recipes in Markdown, for the guide."""
    rows = []
    for name, each in recipes.items():
        steps = ", ".join(f"{epoch:g}" for epoch in each.get("milestones", ()))
        course = f"÷{1 / each['gamma']:g} at {steps}" if steps else each["schedule"]
        kind = "SGD, Nesterov" if each["nesterov"] else "SGD"
        cells = (f"`{name}`", each["epochs"], f"{each['lr']:g}, {course}", each["global_batch"])
        rows.append([*cells, f"{kind} {each['momentum']:g}", f"{each['weight_decay']:g}", each["augment"]])
    head = ["`--recipe`", "epochs", "learning rate", "global batch", "optimizer", "weight decay", "augment"]
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )
