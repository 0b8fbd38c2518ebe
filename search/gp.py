"""The paper's agent: a Gaussian process (RBF kernel, constant mean) and the upper confidence bound.

Notation: X points (n, d) in the unit cube; y scores (n,), higher is better, standardised inside, so the prior
mean is the mean of the scores so far, as in the paper; acquisition a(x) = m(x) + kappa s(x), with posterior mean
m and standard deviation s. kappa is not stated in the paper.
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

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Points = NDArray[np.float64]
RESTARTS = 4  # local searches of the acquisition function
RAW_SAMPLES = 256  # Sobol points they start from
TOLERANCE = 1e-6  # of the likelihood, relative: SciPy's own 2e-9 takes twice as long for the same posterior


def suggest(points: Points, scores: NDArray[np.float64], /, *, seed: int, kappa: float = 1.0) -> NDArray[np.float64]:
    """The next point (d,) of the cube: the maximum of the upper confidence bound.

    Deterministic for equal arguments; torch's global random state is left as it was.

    Args:
        points: X, float64 (n, d), n >= 1.
        scores: y, float64 (n,), finite.
        seed: Seed of the acquisition's starting points.
        kappa: Weight of the standard deviation (1: best in a prototype on noisy labels).
    """
    _import_botorch()
    import torch
    from botorch.acquisition.analytic import UpperConfidenceBound
    from botorch.optim.optimize import optimize_acqf

    with _deterministic(seed):
        model = _fit(points, scores)
        bounds = torch.stack([torch.zeros(points.shape[1]), torch.ones(points.shape[1])]).double()
        best, _ = optimize_acqf(
            UpperConfidenceBound(model, beta=kappa**2),
            bounds=bounds,
            q=1,
            num_restarts=RESTARTS,
            raw_samples=RAW_SAMPLES,
            options={"maxiter": 100, "sample_around_best": True},
        )
    found: NDArray[np.float64] = best[0].numpy()
    return np.clip(found, 0.0, 1.0)


def posterior_mean(points: Points, scores: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Posterior mean (n,) at the observed points, in the unit of the scores: the scores with their noise smoothed."""
    _import_botorch()
    import torch

    with _deterministic(0):
        model = _fit(points, scores)
        with torch.no_grad():
            mean: NDArray[np.float64] = model.posterior(torch.from_numpy(points)).mean[:, 0].numpy()
    return mean * _spread(scores) + float(scores.mean())


def _spread(scores: NDArray[np.float64]) -> float:
    return float(scores.std()) or 1.0


def _fit(points: Points, scores: NDArray[np.float64]) -> SingleTaskGP:
    import torch
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import RBFKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood

    standard = torch.from_numpy((scores - scores.mean()) / _spread(scores)).unsqueeze(-1)
    model = SingleTaskGP(torch.from_numpy(points), standard, outcome_transform=None)
    assert isinstance(model.covar_module, RBFKernel)
    try:
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"ftol": TOLERANCE}}
        )
    except ModelFittingError:  # the prior's own length scales and noise remain
        model = SingleTaskGP(torch.from_numpy(points), standard, outcome_transform=None)
    return model.eval()


def _import_botorch() -> None:
    """Import BoTorch without the deprecation of torch.jit that its linear_operator raises while it loads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        import botorch.models  # noqa: F401


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
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
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
