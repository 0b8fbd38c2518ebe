"""Counts of what a step must not do: collective calls beside DDP's own, and waiting for the device."""

import itertools
import math
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"item", "cpu", "numpy", "tolist", "nonzero", "masked_select", "__bool__", "__float__", "__int__", "__index__"}


class StepCounts:
    """Counts by step what runs in this thread, within a block; `step` ends a step.

    Attributes:
        steps: Collective calls, and calls that wait for a GPU, of each step by name; with the epochs done after it.
    """

    def __init__(self):
        self.steps, self._now = [], Counter()
        self._modes = _Operators(self._now), _Calls(self._now)

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def step(self, done):
        """Note a step; the first one of an epoch also counts what came before it."""
        self.steps.append((done, dict(self._now)))
        self._now.clear()

    @staticmethod
    def inner(steps):
        """Counts of the steps that follow another one of their epoch; DDP arranges its gradients in the second."""
        pairs = itertools.pairwise(steps[1:])
        return [counts for (before, _), (done, counts) in pairs if math.ceil(before - 1e-9) == math.ceil(done - 1e-9)]


class _Operators(TorchDispatchMode):
    def __init__(self, counts):
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith("c10d.") or "local_scalar_dense" in name or "nonzero" in name:
            self._counts[name] += 1
        return function(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, counts):
        super().__init__()
        self._counts = counts

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in WAITS:
            self._counts[name] += 1
        if name in ("__getitem__", "__setitem__"):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts):
                self._counts["boolean index"] += 1
        return function(*args, **(kwargs or {}))
