"""Claims of the paper on budgeted training beside what was found here.

"How Important is Importance Sampling for Deep Budgeted Training?" (Arazo et al., BMVC 2021): ResNet-18 on CIFAR-10 and
CIFAR-100, 200 epochs, budgets 0.2, 0.3 and 0.5, 3 runs.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median

from drawstream.tools.bench.budget.cell import CONTROL, FULL
from drawstream.tools.bench.budget.results import Finding
from drawstream.tools.experiments import Entry, control_of, signed

__all__ = ["claims"]

IMPORTANCE = ("p", "c", "p-paper", "c-paper", "sb", "osgd")  # methods of the paper


def claims(findings: Sequence[Finding], /) -> dict[str, str]:
    """Return what was found here by the paper's claim, for every claim that these runs can speak to."""
    return {claim: ours for claim, say in CLAIMS.items() if (ours := say(findings))}


def _beside_unif(findings: Sequence[Finding], start: str) -> Iterator[tuple[Entry, Entry]]:
    """Entries whose method begins so, each with `unif` at the same budget, augmentation and schedule."""
    entries = [each.entry for each in findings]
    for entry in entries:
        control = control_of(entry, entries, CONTROL)
        if entry.method.startswith(start) and control is not None:
            yield entry, control


def _by_method(pairs: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for method, value in pairs:
        found.setdefault(method, []).append(value)
    return found


def _gain(findings: Sequence[Finding]) -> str:
    gains = [(each.method, each.gain) for each in findings if each.gain and each.method in IMPORTANCE]
    better = [method for method, gain in gains if gain.relation == "better"]
    means = _by_method([(method, gain.mean) for method, gain in gains])
    parts = [
        f"{method} {signed(fmean(values))} points, shown to be better in {better.count(method)} of {len(values)}"
        for method, values in means.items()
    ]
    return f"At equal measured compute: {'; '.join(parts)}." if parts else ""


def _nominal(findings: Sequence[Finding]) -> str:
    nominal = [entry.mean("last") - unif.mean("last") for entry, unif in _beside_unif(findings, "sb")]
    mine = [each for each in findings if each.method == "sb"]
    equal = [each.gain.mean for each in mine if each.gain]
    if not nominal or not equal:
        return ""
    more = fmean(each.effective - each.budget for each in mine)
    return (
        f"{signed(fmean(nominal))} points over unif at the same B, {signed(fmean(equal))} over unif of the same "
        f"measured compute, which is {signed(more)} above B."
    )


def _linear(findings: Sequence[Finding]) -> str:
    steps = {
        (each.method, each.budget, each.entry.setting["augment"]): each.entry.mean("last")
        for each in findings
        if each.entry.setting["schedule"] == "step"
    }
    gaps = []
    for each in findings:
        place = (each.method, each.budget, each.entry.setting["augment"])
        if each.entry.setting["schedule"] == "linear" and place in steps:
            gaps.append((each.method, each.entry.mean("last") - steps[place]))
    means = {method: fmean(values) for method, values in _by_method(gaps).items()}
    if not means:
        return ""
    lower = ", ".join(f"{method} ({signed(value)})" for method, value in means.items() if value <= 0)
    better = sum(value > 0 for value in means.values())
    told = f"Better for {better} of {len(means)} methods, by {signed(median(means.values()))} points (median)"
    return told + (f"; not for {lower}." if lower else ".")


def _coresets(findings: Sequence[Finding]) -> str:
    pairs = _beside_unif(findings, "coreset")
    gaps = _by_method([(entry.method, unif.mean("last") - entry.mean("last")) for entry, unif in pairs])
    parts = [f"unif {signed(fmean(values))} points over {method}" for method, values in gaps.items()]
    return f"At the same B, what chose the rows not counted: {'; '.join(parts)}." if parts else ""


def _evenness(findings: Sequence[Finding]) -> str:
    """Count the settings where the order of H(c) holds, of those that have all three; and the means."""
    places: dict[tuple[object, ...], dict[str, float]] = {}
    for each in findings:
        kind = "fixed" if each.method.startswith("coreset") else each.method
        place = places.setdefault(tuple(each.entry.setting.values()), {})
        place[kind] = max(each.entry.mean("count_entropy"), place.get(kind, 0.0))
    kinds = ("fixed", "p", CONTROL)
    values = [[place[kind] for kind in kinds] for place in places.values() if place.keys() >= set(kinds)]
    if not values:
        return ""
    holds = sum(sorted(each) == each and len(set(each)) == len(kinds) for each in values)
    means = ", ".join(f"{kind} {fmean(each):.3f}" for kind, each in zip(kinds, zip(*values, strict=True), strict=True))
    return f"The order holds in {holds} of {len(values)} settings; mean H(c) in nats: {means}."


def _ricap(findings: Sequence[Finding]) -> str:
    found = {(each.method, round(each.budget, 9), *list(each.entry.setting.values())[1:]): each for each in findings}
    parts = []
    for schedule in dict.fromkeys(each.entry.setting["schedule"] for each in findings):
        ours, full = found.get((CONTROL, 0.3, "ricap", schedule)), found.get((FULL, 1.0, "standard", schedule))
        if ours and full:
            parts.append(f"{schedule}: {ours.entry.spread('last')} % against {full.entry.spread('last')} %")
    return f"{'; '.join(parts)}." if parts else ""


def _times(findings: Sequence[Finding]) -> str:
    parts = []
    for method in ("p", "sb"):
        pairs = [(entry, unif) for entry, unif in _beside_unif(findings, method) if entry.method == method]
        ratios = [entry.mean("seconds") / unif.mean("seconds") for entry, unif in pairs]
        parts += [f"{method} {median(ratios):.3f}"] if ratios else []
    return f"Training time relative to unif at the same B: {', '.join(parts)}." if parts else ""


CLAIMS: dict[str, Callable[[Sequence[Finding]], str]] = {
    "Importance sampling gives no consistent gain over uniform draws under a budget (Tab. 2).": _gain,
    "Selective backprop is ahead at its nominal budget; its scoring passes are not counted there (Tab. 2).": _nominal,
    "The linear schedule is better than steps for every method (Tab. 2).": _linear,
    "Fresh random rows each epoch beat any fixed part of the rows (Fig. 1a, b).": _coresets,
    "Counts are the more even the better a strategy: fixed parts < p-SGD < uniform draws (Fig. 1c, d).": _evenness,
    "With RICAP, a budget of 0.3 reaches what full training with standard augmentation reaches (Tab. 3).": _ricap,
    "p-SGD takes 48 minutes where uniform draws take 47, and selective backprop 91 (Tab. 5).": _times,
}
