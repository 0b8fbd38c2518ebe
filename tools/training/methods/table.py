"""The one table of methods: command line, completion, benchmarks, report and guides read it.

Adding a method is an entry here, and a file with its builder, which is imported when it is used: this file is light, so
that the shell can complete names. Notation as in `plan`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from drawstream.tools.training.methods.plan import Inputs, TrainingPlan

ORANGE, BLUE, GREEN, PURPLE, GRAY = "#d9730d", "#2f7fc1", "#1b9e77", "#a868a4", "#7d8590"
_HERE = "drawstream.tools.training.methods"

Kind = Literal["class", "multi", "value", "none"]  # of `pipeline.labels`, which is not imported here
Given = Literal["default", "name", "file", "own", "bench"]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of training: what it draws, and how it is built, shown and counted.

    Attributes:
        name: As a user types it and a record keeps it.
        help: Rows of an epoch, for the guide.
        build: The builder, or its name `module:function`: from `Inputs` to a `TrainingPlan`. That of a `loss`
            takes some of the keywords of `losses.make_loss`.
        given: How `--sampler` gives it: it is the default, a name, a file, a user's own, or a benchmark's alone.
        options: Options of `train` that it reads, beside --budget.
        label: Name in tables and pages; empty: its name.
        noun: What a user gives, in messages; empty: its name.
        control: It draws uniformly, and others are compared with it.
        fewer_epochs: It spends B on round(B T) epochs, others on M rows of T epochs.
        cost: Measured compute, in parts of a full training.
        beforehand: What must be trained before it, for the guide.
        after: The run that must be finished before: `full`, one on all rows; `irreducible`, one on other data.
        slow: A benchmark runs it only if it is named.
        labels: Kinds of labels that it reads; empty: it reads none, or says itself what it needs.
        budgeted: The benchmark of budgeted training has it; not so those that are for long tails.
        loss: `build` makes a loss for wrong labels, in place of a plan.
        colour, marker: In figures; the marker is plotly's.
    """

    name: str
    help: str = ""
    build: Callable[..., Any] | str = ""
    given: Given = "name"
    options: tuple[str, ...] = ()
    label: str = ""
    noun: str = ""
    control: bool = False
    fewer_epochs: bool = False
    cost: str = "B"
    beforehand: str = ""
    after: Literal["", "full", "irreducible"] = ""
    slow: bool = False
    labels: tuple[Kind, ...] = ()
    budgeted: bool = True
    loss: bool = False
    colour: str = BLUE
    marker: str = "circle"

    @property
    def title(self) -> str:
        """Name in tables and pages."""
        return self.label or self.name

    def builder(self) -> Callable[..., Any]:
        """Return the builder, imported if it is given by name."""
        from drawstream.features import load_factory

        return load_factory("a method", self.build) if isinstance(self.build, str) else self.build

    def plan(self, inputs: "Inputs", /) -> "TrainingPlan":
        """Plan a training.

        Args:
            inputs: Rows, epochs, budget and what else a method may need.

        Raises:
            ValueError: An option or input does not fit the method.
        """
        if inputs.factor > 1 and "crop_filter" not in self.options:
            raise ValueError(f"a crop filter draws for itself, but the sampler is {inputs.name}: leave out one of them")
        plan: TrainingPlan = self.builder()(inputs)
        return plan


_NAMED = f"{_HERE}.budgeted"
_ROWS = ("balance", "where")  # which rows are drawn, and how alike their classes
_UNIFORM: dict[str, Any] = {"build": f"{_NAMED}:uniform", "control": True, "colour": ORANGE}
_IMPORTANCE: dict[str, Any] = {
    "help": "B N different rows, by importance; the first epoch uniform",
    "build": f"{_NAMED}:importance",
    "options": ("paper", "uniform_epochs", "no_smoothing", "last_only", *_ROWS),
}
_VARIANT: dict[str, Any] = {"given": "bench", "slow": True, **_IMPORTANCE}
_SELECTED: dict[str, Any] = {"build": f"{_NAMED}:selected", "colour": PURPLE}
_CORESET: dict[str, Any] = {"build": f"{_NAMED}:coreset"}
_LOSS: dict[str, Any] = {"given": "bench", "loss": True, "colour": GREEN}
_CLASSES: dict[str, Any] = {
    "labels": ("class",),
    "build": f"{_HERE}.long_tail:class_balanced",
    "budgeted": False,
    "colour": GREEN,
}

_ENTRIES = (
    Method("uniform", given="default", label="Uniform", options=("crop_filter", *_ROWS), **_UNIFORM),
    Method("mixture", given="file", label="Mixture", noun="a --mixture", colour=PURPLE, marker="square"),
    Method(
        "swift",
        build=f"{_NAMED}:weighted",
        given="file",
        label="Swift Sampler",
        noun="a sampler.json",
        options=("mode", "table", "join", "frozen", "crop_filter", "crop_factor", *_ROWS),
    ),
    Method(
        "weights",
        build=f"{_NAMED}:weighted",
        given="file",
        noun="weights",
        options=("mode", "column", "crop_filter", "crop_factor", *_ROWS),
    ),
    Method("schedule", build=f"{_NAMED}:replay", given="file", noun="a schedule"),
    Method(
        "module:factory",
        build=f"{_HERE}.own_sampler:own_plan",
        given="own",
        noun="your own sampler",
        options=("mode", "table", "join", *_ROWS),
    ),
    Method("full", given="bench", cost="1", **_UNIFORM),
    Method("unif", "B N rows, a part of a new permutation", options=_ROWS, **_UNIFORM),
    Method(
        "scan",
        "all rows",
        build=f"{_NAMED}:scan",
        options=_ROWS,
        fewer_epochs=True,
        colour=ORANGE,
        marker="circle-open",
    ),
    Method("p", **_IMPORTANCE),
    Method("c", marker="square", **_IMPORTANCE),
    Method("p-paper", marker="circle-open", **_VARIANT),
    Method("c-paper", marker="square-open", **_VARIANT),
    Method("p-no-smoothing", marker="triangle-down-open", **_VARIANT),
    Method("p-last", marker="triangle-left-open", **_VARIANT),
    Method(
        "sb",
        "all rows are scored, about B N are trained on",
        build=f"{_NAMED}:selective_backprop",
        options=_ROWS,
        cost="B + 1/3",
        colour=PURPLE,
        marker="diamond",
    ),
    Method(
        "osgd",
        "all rows, of which the largest losses count",
        build=f"{_NAMED}:ordered",
        options=("full_epochs", *_ROWS),
        fewer_epochs=True,
        cost="B, see below",
        colour=PURPLE,
        marker="triangle-up",
    ),
    Method(
        "dlis",
        "B N rows; while it is on, out of 3 B N that are scored",
        options=_ROWS,
        cost="B to 2 B",
        marker="diamond-open",
        **_SELECTED,
    ),
    Method(
        "rais",
        "B N rows with replacement, by the largest gradient norm that is held possible; the first epoch uniform",
        build=f"{_NAMED}:robust",
        options=("uniform_epochs", *_ROWS),
        colour=PURPLE,
        marker="star",
    ),
    Method(
        "rho",
        "B N rows out of 10 B N that are scored",
        options=("table", "join", "column", *_ROWS),
        cost="4.3 B",
        beforehand="a model of other data, and its losses of all rows",
        after="irreducible",
        slow=True,
        marker="triangle-up-open",
        **_SELECTED,
    ),
    Method(
        "infobatch",
        "all rows but some of those whose loss is below the mean",
        build=f"{_NAMED}:infobatch",
        fewer_epochs=True,
        cost="below B",
        colour=GREEN,
        marker="star",
    ),
    Method("coreset-random", "the same B N rows", labels=("class",), colour=GRAY, **_CORESET),
    Method(
        "coreset-forgetting",
        "the same B N rows, those forgotten most often",
        options=("table", "join"),
        beforehand="a full training that is tracked",
        after="full",
        colour=GREEN,
        marker="square",
        labels=("class",),
        **_CORESET,
    ),
    Method(
        "coreset-el2n",
        "the same B N rows, those of the largest error (EL2N) in the first epochs",
        options=("table", "join"),
        beforehand="a full training that is tracked",
        after="full",
        colour=GREEN,
        marker="triangle-down",
        slow=True,
        labels=("class",),
        **_CORESET,
    ),
    Method(
        "coreset-column",
        "the same B N rows, the highest in a column of the table",
        options=("table", "join", "column"),
        beforehand="the table",
        budgeted=False,
        colour=GREEN,
        marker="triangle-down-open",
        **_CORESET,
    ),
    Method(
        "soft-cap",
        "B N different rows, by a column of the table that falls each time a row is drawn",
        build=f"{_NAMED}:soft_cap",
        options=("table", "join", "column", "fall", *_ROWS),
        beforehand="the table",
        budgeted=False,
        colour=PURPLE,
        marker="hexagon",
    ),
    Method(
        "coreset-k_center",
        "the same B N rows, far from each other",
        options=("score_weights",),
        cost="B + 1/(3 T)",
        beforehand="a full training, whose embeddings it takes",
        after="full",
        slow=True,
        colour=PURPLE,
        marker="triangle-up",
        **_CORESET,
    ),
    Method(
        "clean",
        "B N rows, by the probability that their label is right, refitted every few epochs; uniform at first",
        build=f"{_NAMED}:clean",
        options=("refresh", "clean_score", "per_class", "table", "join", "mode", *_ROWS),
        labels=("class",),
        budgeted=False,
        label="P(clean)",
        colour=GREEN,
        marker="hexagon",
    ),
    Method("balanced", "B N rows, each class alike", options=("mode", "where"), **_CLASSES),
    Method(
        "effective-number",
        "B N rows, a class by how much its images add",
        options=("effective_beta", "mode", "where"),
        marker="square",
        **_CLASSES,
    ),
    Method(
        "progressive",
        "B N rows, from uniform in the first epoch to each class alike in the last",
        options=("mode", "where"),
        marker="triangle-up",
        **_CLASSES,
    ),
    Method(
        "deferred",
        "B N rows, uniform at first and each class alike from four fifths of the epochs on",
        options=("defer_until", "mode", "where"),
        marker="diamond",
        **_CLASSES,
    ),
    Method(
        "repeat-factors",
        "B N rows, those of rare classes more often; rows may have several classes",
        options=("repeat_threshold", "mode", "where"),
        marker="star-open",
        **(_CLASSES | {"labels": ("class", "multi")}),
    ),
    Method("drw", build=f"{_HERE}.long_tail:deferred_reweighting", label="DRW", marker="diamond-open", **_LOSS),
    Method("suspects", given="bench", label="without suspects", colour=GRAY, marker="x"),
    Method("drop", given="bench", colour=GRAY, marker="cross"),
    Method("reed-soft", marker="triangle-up-open", build=f"{_HERE}.robust:reed_soft", **_LOSS),
    Method("reed-hard", marker="triangle-down-open", build=f"{_HERE}.robust:reed_hard", **_LOSS),
    Method("l2rw", marker="diamond-open", build=f"{_HERE}.robust:learned", **_LOSS),
    Method(
        "mentornet-pd",
        build=f"{_HERE}.robust:self_paced",
        label="self-paced (MentorNet PD)",
        marker="square-open",
        **_LOSS,
    ),
    Method("mentornet-dd", build=f"{_HERE}.mentornet:data_driven", label="MentorNet DD", marker="square", **_LOSS),
    Method("clean-only", given="bench", label="clean-only (oracle)", colour=GRAY, marker="star"),
)
METHODS: dict[str, Method] = {method.name: method for method in _ENTRIES}


def add_method(method: Method, /) -> None:
    """Add a method of your own to the table.

    Args:
        method: The entry, with a name that is not taken.

    Raises:
        ValueError: The name is taken.
    """
    if method.name in METHODS:
        raise ValueError(f"there is a method {method.name!r} already: give another name")
    METHODS[method.name] = method


def method_names() -> list[str]:
    """Names that `--sampler` takes, in the order of the table."""
    return [method.name for method in METHODS.values() if method.given == "name"]


def users_of(option: str, /) -> str:
    """The methods that read an option, as a message names them."""
    nouns = [
        method.noun or method.name
        for method in METHODS.values()
        if option in method.options and method.given != "bench"
    ]
    *others, last = nouns
    return f"{', '.join(others)} or {last}" if others else last


def guide_table() -> str:
    """The table of the methods by name, in Markdown."""
    rows = [
        f"| `{each.name}` | {each.help} | {'B T' if each.fewer_epochs else 'T'} | {each.cost} | {each.beforehand} |"
        for each in METHODS.values()
        if each.given == "name"
    ]
    head = ["| `--sampler` | an epoch | epochs | measured | beforehand |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]).replace("|  |", "| |")
