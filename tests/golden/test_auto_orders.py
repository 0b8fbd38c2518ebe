"""Golden orders of children. WARNING: a change here changes what every seed of a population search means.

If a test below fails, do not refresh the numbers to make it pass: restore the orders, or announce the break in the
changelog.
"""

import numpy as np

from drawstream.search.auto.explore import child_seed, cycle_weights, sub_schedule
from drawstream.search.auto.plan import Cycle, PopulationPlan

PLAN = PopulationPlan(rows=100, population=4, batch_size=8, epochs=11, first=2, seed=5)
COUNTS = np.arange(100) % 7
SEEDS = [16441542735245096210, 18041059411467383978, 12980337306812814868]
UNIFORM = [79, 7, 25, 10, 46, 12, 6, 55, 8, 89, 65, 52]
EXPLORED = [19, 49, 76, 75, 12, 80, 54, 25, 61, 30, 68, 88]
LAST = [69, 52, 27, 43, 96, 9, 41, 2, 28, 15, 90, 75]


def test_seeds_of_children():
    assert [child_seed(0, 0), child_seed(0, 1), child_seed(2**64 - 1, 7)] == SEEDS


def test_orders_of_children():
    assert PLAN.cycle(5) == Cycle(1, 2, 6) and PLAN.cycle(10) == Cycle(3, 10, 11)
    uniform = sub_schedule(PLAN, PLAN.cycle(1), 3, None)
    assert uniform(1, 16, 28).tolist() == UNIFORM
    weights = cycle_weights(PLAN, COUNTS)
    explored = sub_schedule(PLAN, PLAN.cycle(5), 3, weights)
    assert explored(5, 16, 28).tolist() == EXPLORED
    last = sub_schedule(PLAN, PLAN.cycle(10), 0, weights)
    assert last(10, 0, 12).tolist() == LAST
