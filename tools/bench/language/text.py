"""Text as rows: windows of words, dealt out to training, held-out and test set, with the frequency of their words.

Notation
    L    words that the model reads; a row is L + 1 numbers of words, of which the last L are predicted
    V    vocabulary: the V - 1 most common words of the training set, and 0 for any other
"""

import re
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BUILT_IN", "Text", "read_text"]

BUILT_IN = "python"  # the reference of Python, which each installation has
PARTS = ("train", "valid", "test")
BLOCK = 10  # neighbouring windows, which go to one part: eight, one and one of ten blocks


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Windows of words as numbers, int64 (rows, L + 1).

    Attributes:
        train: What samplers draw from.
        held_out: Chooses.
        test: Reports; chooses nothing.
        shuffled: Training windows whose words have lost their order, bool (rows,); no method is told.
        frequency: Mean log frequency of the words of a training window, float32 (rows,).
        words: V.
    """

    train: Tensor
    held_out: Tensor
    test: Tensor
    shuffled: NDArray[np.bool_]
    frequency: NDArray[np.float32]
    words: int

    @property
    def fingerprint(self) -> str:
        """Hash of all windows."""
        digest = blake2b(digest_size=16)
        for part in (self.train, self.held_out, self.test):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def read_text(source: str, /, *, length: int, vocabulary: int, shuffled: float, seed: int) -> Text:
    """Read a text, and shuffle the words of a share of the training windows, as a bad extraction from pages does.

    Args:
        source: A folder with a file for each part, `*train*`, `*valid*` and `*test*`, whose words are separated by
            spaces (as WikiText-2 is); or `python`, its reference, eight, one and one tenth of it.
        length: L.
        vocabulary: V, at most.
        shuffled: The share, in [0, 1).
        seed: Of the shuffled windows.

    Raises:
        ValueError: There is no such folder, or a part of it has no window.
    """
    parts = _built_in(length) if source == BUILT_IN else [_words_of(Path(source), name) for name in PARTS]
    common = Counter(parts[0]).most_common(vocabulary - 1)
    number = {word: at + 1 for at, (word, _) in enumerate(common)}
    windows = []
    for name, words in zip(PARTS, parts, strict=True):
        rows = (len(words) - 1) // length
        if rows < 1:
            raise ValueError(
                f"{source}: {name} has {len(words)} words, fewer than {length + 1}: give a smaller --length"
            )
        ids = np.array([number.get(word, 0) for word in words], dtype=np.int64)
        windows.append(np.stack([ids[at * length : at * length + length + 1] for at in range(rows)]))
    train, held_out, test = windows
    rng = np.random.default_rng(seed)
    mixed = rng.random(len(train)) < shuffled
    train[mixed] = rng.permuted(train[mixed], axis=1)
    counts = np.bincount(train.ravel(), minlength=vocabulary) / train.size
    frequency = np.log(counts[train]).mean(1).astype(np.float32)
    parts_read = torch.from_numpy(train), torch.from_numpy(held_out), torch.from_numpy(test)
    return Text(*parts_read, mixed, frequency, len(number) + 1)


def _words_of(folder: Path, part: str) -> list[str]:
    found = sorted(each for each in folder.glob(f"*{part}*") if each.is_file())
    if len(found) != 1:
        raise ValueError(
            f"{folder}: must hold one file *{part}*, but has {len(found)}: give the folder of a text such as "
            f"WikiText-2, or {BUILT_IN}"
        )
    return found[0].read_text(encoding="utf-8").split()


def _built_in(length: int) -> list[list[str]]:
    words = re.findall(r"[A-Za-z_]+|[^\sA-Za-z_]", " ".join(topics.values()).lower())
    parts: list[list[str]] = [[], [], []]
    for at in range(0, len(words), BLOCK * length):
        parts[max(0, at // (BLOCK * length) % 10 - 7)] += words[at : at + BLOCK * length]
    return parts
