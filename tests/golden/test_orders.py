"""Golden orders. WARNING: a change here changes what every saved run, state_dict and published seed means.

If a test below fails, the order of some mode has changed for the same (weights, seed, epoch). Do not refresh the
numbers to make it pass: restore the order, or announce the break in the changelog and raise the version.
"""

import hashlib

import numpy as np
import pytest

from drawstream.samplers.hashing import derive_keys
from drawstream.samplers.orders import IndexStream

WEIGHTS = ((np.arange(5000, dtype=np.float64) * 7919) % 97) / 97  # 0 in every 97th row; exact in every NumPy

# mode, options, seed, epoch -> first twelve rows, and the hash of the whole epoch
GOLDEN = {
    ("permutation", 100, 70, None, 0, 0): ([62, 66, 23, 96, 21, 81, 80, 63, 25, 18, 76, 75], "f8017c7c16980733"),
    ("permutation", 100, 70, None, 18446744073709551615, 3): (
        [41, 92, 30, 3, 59, 71, 19, 46, 23, 42, 14, 74],
        "bcc25181337e1225",
    ),
    ("permutation", 5000, 5000, None, 0, 0): (
        [1519, 3874, 4500, 2470, 2236, 1543, 139, 717, 3327, 2071, 531, 1911],
        "97d583d927137651",
    ),
    ("permutation", 5000, 5000, None, 18446744073709551615, 3): (
        [661, 1876, 4318, 3669, 4450, 2262, 1077, 2055, 2180, 4693, 4885, 1962],
        "acc4abc7352eda5f",
    ),
    ("permutation", 5000, 9000, None, 0, 0): (
        [1519, 3874, 4500, 2470, 2236, 1543, 139, 717, 3327, 2071, 531, 1911],
        "8c1e28c2a74479b4",
    ),
    ("permutation", 5000, 9000, None, 18446744073709551615, 3): (
        [661, 1876, 4318, 3669, 4450, 2262, 1077, 2055, 2180, 4693, 4885, 1962],
        "7474afe79b8a781e",
    ),
    ("permutation", 5000, 4500, 1500, 0, 0): (
        [4031, 4397, 212, 2548, 4047, 3575, 1115, 2493, 1370, 2004, 274, 1984],
        "fcbb32ee595e3ced",
    ),
    ("permutation", 5000, 4500, 1500, 18446744073709551615, 3): (
        [2565, 3824, 3601, 688, 4094, 1898, 1928, 2535, 2341, 2550, 4589, 642],
        "0e6a6728fb3c7bfc",
    ),
    ("stratified", 100, 70, None, 0, 0): ([63, 17, 48, 67, 64, 57, 15, 90, 39, 31, 70, 72], "70c698ad95fbe071"),
    ("stratified", 100, 70, None, 18446744073709551615, 3): (
        [42, 6, 9, 26, 23, 54, 14, 62, 13, 35, 53, 3],
        "dc142a0e3aeeb6aa",
    ),
    ("stratified", 5000, 5000, None, 0, 0): (
        [3470, 3357, 3718, 531, 652, 212, 447, 1420, 575, 2739, 295, 2991],
        "d30779c2539b0415",
    ),
    ("stratified", 5000, 5000, None, 18446744073709551615, 3): (
        [4998, 4070, 2582, 2864, 2213, 419, 2513, 4769, 3411, 3659, 2334, 2443],
        "ea72ec066867c9f5",
    ),
    ("stratified", 5000, 9000, None, 0, 0): (
        [96, 2149, 3390, 234, 1921, 3480, 4046, 4645, 1824, 2765, 2471, 2015],
        "84c43b318798aef2",
    ),
    ("stratified", 5000, 9000, None, 18446744073709551615, 3): (
        [2113, 4005, 3231, 2063, 4510, 88, 226, 972, 3343, 4795, 3684, 4138],
        "d26bafe371e53072",
    ),
    ("stratified", 5000, 4500, 1500, 0, 0): (
        [3383, 95, 1512, 1541, 2741, 3484, 3336, 960, 3459, 3391, 1717, 37],
        "a5601cb6685cbc4e",
    ),
    ("stratified", 5000, 4500, 1500, 18446744073709551615, 3): (
        [377, 3675, 3282, 510, 251, 4230, 413, 3650, 1492, 2748, 261, 1548],
        "373701962e3699a8",
    ),
    ("multinomial", 100, 70, None, 0, 0): ([67, 9, 84, 40, 75, 66, 68, 10, 25, 92, 73, 92], "62685af7c2b1496a"),
    ("multinomial", 100, 70, None, 18446744073709551615, 3): (
        [6, 98, 23, 39, 73, 13, 87, 48, 79, 39, 68, 31],
        "c584c5e8819caf10",
    ),
    ("multinomial", 5000, 5000, None, 0, 0): (
        [3633, 433, 4216, 2076, 3698, 3306, 3435, 525, 1395, 4512, 3892, 4516],
        "c28330ed23fec785",
    ),
    ("multinomial", 5000, 5000, None, 18446744073709551615, 3): (
        [247, 4925, 1110, 1986, 3540, 663, 4726, 2389, 3966, 1935, 3445, 1587],
        "64abec98cd689a80",
    ),
    ("multinomial", 5000, 9000, None, 0, 0): (
        [3633, 433, 4216, 2076, 3698, 3306, 3435, 525, 1395, 4512, 3892, 4516],
        "11c34b25a783b512",
    ),
    ("multinomial", 5000, 9000, None, 18446744073709551615, 3): (
        [247, 4925, 1110, 1986, 3540, 663, 4726, 2389, 3966, 1935, 3445, 1587],
        "fd8437cd1da12ec8",
    ),
    ("subset", 100, 70, None, 0, 0): ([34, 98, 75, 19, 14, 76, 6, 51, 18, 61, 96, 49], "a4e035352799074a"),
    ("subset", 100, 70, None, 18446744073709551615, 3): (
        [3, 20, 26, 1, 32, 87, 56, 18, 12, 90, 25, 9],
        "e38882a1cfdc4ed5",
    ),
    ("subset", 5000, 2500, None, 0, 0): (
        [2609, 3524, 1484, 1796, 4353, 1808, 2872, 3878, 1567, 1849, 3812, 4717],
        "e7e8a7823d16b0a9",
    ),
    ("subset", 5000, 2500, None, 18446744073709551615, 3): (
        [1306, 4083, 2725, 2014, 3570, 3091, 159, 2746, 69, 2282, 844, 1559],
        "b29d9fbf12d20b6f",
    ),
    ("subset", 5000, 4500, 1500, 0, 0): (
        [2368, 1667, 2317, 3887, 4299, 1428, 2307, 3610, 2376, 3932, 4512, 48],
        "d3837995cacb6262",
    ),
    ("subset", 5000, 4500, 1500, 18446744073709551615, 3): (
        [3481, 2448, 1499, 109, 805, 3299, 2207, 1044, 1034, 3221, 977, 3590],
        "dc4c2482476e46c7",
    ),
}


def stream_of(mode, rows, draws, window, seed):
    weights = rows if mode == "permutation" else WEIGHTS[:rows].copy()
    return IndexStream(weights, mode=mode, draws=draws, window=window, seed=seed)


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_order_is_the_one_of_earlier_versions(case):
    mode, rows, draws, window, seed, epoch = case
    order = stream_of(mode, rows, draws, window, seed).epoch(epoch)
    first, whole = GOLDEN[case]
    assert order[:12].tolist() == first
    assert hashlib.sha256(order[:].astype("<i8").tobytes()).hexdigest()[:16] == whole


def test_keys_are_those_of_earlier_versions():
    assert [hex(word) for word in derive_keys(2, "stratified", 1, 2)] == ["0x946914acddddf1e9", "0x56d748d1b7181186"]
