"""The paper's agent: a Gaussian process (RBF kernel, constant mean) and the upper confidence bound.

Notation: X points (n, d) in the unit cube; y scores (n,), higher is better, standardised inside; acquisition
a(x) = m(x) + kappa s(x), with posterior mean m and standard deviation s. kappa is not stated in the paper.
The prior mean is the mean of the scores so far (Swift Sampler, Sec. 3.3), 0 on standardised scores. It is not fitted:
a fitted constant sinks far below every score as good candidates crowd together (-3 deviations after 40 of them).
The kernel has one length scale per dimension under BoTorch's dimension-scaled prior.
Torch and BoTorch are imported where they are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drawstream.search.swift.ucb import Process, choose

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Points = NDArray[np.float64]
TOLERANCE = 1e-6  # of the likelihood, relative: SciPy's own 2e-9 takes twice as long for the same posterior


def suggest(
    points: Points, scores: NDArray[np.float64], /, *, seed: int, kappa: float = 1.0, count: int = 1
) -> NDArray[np.float64]:
    """The next points (count, d) of the cube: one after the other the maximum of the upper confidence bound.

    The hyper-parameters are fitted once. Deterministic for equal arguments (`seed`: of the points from which the bound
    is ascended); torch's global random state is left as it was. kappa 1 was best in a prototype on noisy labels.
    """
    return choose(fitted(points, scores), count, kappa=kappa, seed=seed)


def fitted(points: Points, scores: NDArray[np.float64], /) -> Process:
    """The process with hyper-parameters of the greatest posterior likelihood under BoTorch's priors."""
    _import_botorch()
    with _deterministic():
        model = _fit(points, scores)
    return Process(
        points,
        (scores - scores.mean()) / _spread(scores),
        lengths=model.covar_module.lengthscale.detach().numpy()[0].astype(np.float64),
        noise=float(model.likelihood.noise.item()),
    )


def posterior_mean(points: Points, scores: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Posterior mean (n,) at the observed points, in the unit of the scores: the scores with their noise smoothed."""
    mean = fitted(points, scores).posterior(points)[0]
    return mean * _spread(scores) + float(scores.mean())


def _spread(scores: NDArray[np.float64]) -> float:
    return float(scores.std()) or 1.0


def _fit(points: Points, scores: NDArray[np.float64]) -> SingleTaskGP:
    import torch
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import RBFKernel
    from gpytorch.means import ZeroMean
    from gpytorch.mlls import ExactMarginalLogLikelihood

    standard = torch.from_numpy((scores - scores.mean()) / _spread(scores)).unsqueeze(-1)
    model = SingleTaskGP(torch.from_numpy(points), standard, mean_module=ZeroMean(), outcome_transform=None)
    assert isinstance(model.covar_module, RBFKernel)
    try:
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"ftol": TOLERANCE}}
        )
    except ModelFittingError:  # the prior's own length scales and noise remain
        model = SingleTaskGP(torch.from_numpy(points), standard, mean_module=ZeroMean(), outcome_transform=None)
    return model.eval()


def _import_botorch() -> None:
    """Import BoTorch without the deprecation of torch.jit that its linear_operator raises while it loads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        import botorch.models  # noqa: F401


@contextmanager
def _deterministic() -> Iterator[None]:
    """Seed torch inside, restore its state after, and silence what BoTorch says about few or equal scores."""
    import torch
    from botorch.exceptions.warnings import InputDataWarning, OptimizationWarning
    from linear_operator.utils.warnings import NumericalWarning  # type: ignore[import-untyped]

    quiet: tuple[Any, ...] = (InputDataWarning, OptimizationWarning, NumericalWarning)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices of n <= 100: more threads wait for each other, several times slower
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            for category in quiet:
                warnings.simplefilter("ignore", category)
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
