"""Models by name: small ones for 8 to 32 pixel images, timm's, or any factory a user names as `module:factory`.

`timm:NAME+small-stem` is a model of timm for images of 32 pixels: its first convolution is 3×3 with stride 1, and no
pooling follows it, as in the papers' tables on CIFAR. Swin has no such stem: it gets patches of 2 pixels and windows
of 4 tokens (not stated in the papers).
"""

import importlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.features import accepted, load_factory, users_code
from drawstream.samplers.files import raise_unless_file, write_atomically


def mlp(*, num_classes: int, channels: int, size: tuple[int, int], hidden: tuple[int, ...] = (256, 256)) -> nn.Module:
    """Fully connected network on the flattened image (for 8×8 digits: 64–256–256–C)."""
    widths = (channels * size[0] * size[1], *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


def cnn(*, num_classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """Two strided convolutions and two linear layers: 20 epochs of 20 000 28×28 images take seconds on two cores."""
    height, width = (((s + 1) // 2 + 1) // 2 for s in size)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * height * width, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


class _Block(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same or half the side."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network with a 3×3 stem, for images of 28 to 64 pixels; each stage after the first halves the side."""

    def __init__(self, blocks: tuple[int, ...], width: int, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        stages: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for index in range(count):
                stages.append(_Block(inputs, outputs, 2 if stage and index == 0 else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, channels, H, W)."""
        head: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return head


class PooledResNet(nn.Module):
    """Three 3×3 convolutions with pooling between them and one residual block, for images of 28 to 64 pixels.

    A ResNet-9 (Page 2018, "How to train your ResNet") without what is left out in few epochs: 0.4 M weights at width
    32, which two CPU cores train on some 2 000 images of 32 pixels a second.
    """

    def __init__(self, width: int, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _convolved(channels, width),
            nn.MaxPool2d(2),
            _convolved(width, 2 * width),
            nn.MaxPool2d(2),
            _convolved(2 * width, 4 * width),
        )
        self.residual = nn.Sequential(_convolved(4 * width, 4 * width), _convolved(4 * width, 4 * width))
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, channels, H, W)."""
        y = self.stages(x)
        head: Tensor = self.head((y + self.residual(y)).mean((2, 3)))
        return head


def _convolved(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _PreActivationBlock(nn.Module):
    """Norm, ReLU and 3×3 convolution, twice, with a shortcut (Zagoruyko and Komodakis 2016, Fig. 1)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same or half the side."""
        y = F.relu(self.norm1(x))
        rest = x if self.shortcut is None else self.shortcut(y)
        found: Tensor = self.conv2(F.relu(self.norm2(self.conv1(y)))) + rest
        return found


class WideResNet(nn.Module):
    """Wide residual network of images of 28 to 64 pixels: depth 6 n + 4, width k (Zagoruyko and Komodakis 2016)."""

    def __init__(self, depth: int, width: int, *, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 1, 1, bias=False)]
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            for index in range((depth - 4) // 6):
                first = index == 0
                layers.append(_PreActivationBlock(inputs if first else outputs, outputs, 2 if stage and first else 1))
        self.stages = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, channels, H, W)."""
        head: Tensor = self.head(self.stages(x).mean((2, 3)))
        return head


BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet6": partial(PooledResNet, 32),
    "resnet8": partial(ResNet, (1, 1, 1), 16),
    "resnet20": partial(ResNet, (3, 3, 3), 16),  # of CIFAR: He et al. 2016, §4.2
    "resnet18": partial(ResNet, (2, 2, 2, 2), 64),  # the stem for small images, as in the papers' tables on CIFAR
    "wrn-28-2": partial(WideResNet, 28, 2),
}
SMALL_STEM = "+small-stem"


def build_model(spec: str, /, *, num_classes: int, channels: int, size: tuple[int, int], seed: int) -> nn.Module:
    """Make a freshly initialised model.

    Args:
        spec: A name of `BUILT_IN`, `timm:NAME`, `timm:NAME+small-stem`, or `module:factory`; a factory is called with
            those of the keywords `num_classes`, `channels`, `size` (height, width) that it accepts.
        num_classes: Length of the logits.
        channels: Of the images.
        size: Height and width of the images, pixels.
        seed: Of the initialisation; the global random state is left as it was.

    Raises:
        ValueError: The name is unknown, or the factory cannot be imported or called.
    """
    arguments: dict[str, Any]
    if spec.startswith("timm:"):
        factory, arguments = _timm(spec.removeprefix("timm:"), size), {"num_classes": num_classes, "in_chans": channels}
    else:
        if spec not in BUILT_IN and ":" not in spec:
            raise ValueError(f"unknown model {spec!r}: give one of {', '.join(BUILT_IN)}, timm:NAME or module:factory")
        factory = BUILT_IN.get(spec) or load_factory("model", spec)
        arguments = accepted(factory, {"num_classes": num_classes, "channels": channels, "size": size})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with users_code(f"model {spec!r} cannot be made"):
                model = factory(**arguments)
        except Exception as error:  # of the user's module, or of timm for arguments that a model does not have
            given = ", ".join(f"{name}={value}" for name, value in arguments.items()) or "nothing"
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            text += ": --channels 3 loads gray images as RGB" if arguments.get("in_chans") == 1 else ""
            raise ValueError(f"model {spec!r} cannot be made with {given}: {text}") from None
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {spec!r}: the factory returned {type(model).__name__}, not a torch.nn.Module")
    return model


def small_stem(spec: str, /) -> str:
    """Return the name of a timm model's variant for small images.

    Raises:
        ValueError: It is not timm's.
    """
    if not spec.startswith("timm:"):
        raise ValueError(f"--small-stem goes with --model timm:NAME, but got {spec!r}: leave it out")
    return spec.removesuffix(SMALL_STEM) + SMALL_STEM


def _timm(spec: str, size: tuple[int, int]) -> Callable[..., nn.Module]:
    name, small = spec.removesuffix(SMALL_STEM), spec.endswith(SMALL_STEM)
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ValueError(f"model 'timm:{name}' needs timm, which is not installed: pip install timm") from None
    except Exception as error:  # mostly torchvision's, when it was built for another torch
        raise ValueError(
            f"model 'timm:{name}': timm cannot be imported: {error}: install the torchvision that belongs to torch "
            f"{torch.__version__}"
        ) from None
    if name not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}: see timm.list_models()")
    if not small:
        return lambda **arguments: timm.create_model(name, **arguments)
    if name.startswith("swin"):
        tokens: dict[str, Any] = {"img_size": size, "patch_size": 2, "window_size": 4}
        return lambda **arguments: timm.create_model(name, **tokens, **arguments)
    return lambda **arguments: _with_small_stem(timm.create_model(name, **arguments), name)


def _with_small_stem(model: nn.Module, name: str) -> nn.Module:
    """Replace the first convolution of a timm model by one of 3×3 with stride 1, and leave out a pooling behind it."""
    first: Any = getattr(model, "default_cfg", {}).get("first_conv")
    above, _, last = first.rpartition(".") if isinstance(first, str) else ("", "", "")
    parent = model.get_submodule(above)
    old = getattr(parent, last, None)
    if not isinstance(old, nn.Conv2d) or old.kernel_size == old.stride or old.stride == (1, 1):
        raise ValueError(f"timm:{name} has no stem of one convolution with a stride: leave out --small-stem")
    conv = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=old.bias is not None)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm initialises all of them
    setattr(parent, last, conv)
    for child, module in parent.named_children():
        if isinstance(module, nn.MaxPool2d):
            setattr(parent, child, nn.Identity())
            break
    return model


def load_weights(model: nn.Module, path: Path, /) -> None:
    """Load a safetensors file, or a checkpoint of plain tensors (a state dict, or one under `model`/`state_dict`).

    Raises:
        ValueError: Missing or damaged file, pickled objects, or names and shapes that do not fit the model.
    """
    if not path.is_file():
        raise ValueError(f"weights {path}: no such file")
    state: Any
    try:
        plain = path.suffix == ".safetensors"
        state = load_file(path) if plain else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise_unless_file(error, path)
        reason = (str(error) or "the file ends too early").splitlines()[0]
        raise ValueError(f"weights {path}: cannot be read as tensors ({reason})") from None
    except Exception as error:  # pickle.UnpicklingError and what else a hostile file may raise
        raise ValueError(
            f"weights {path}: not a plain checkpoint ({type(error).__name__}); save it as safetensors"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights {path}: holds no state dict of tensors")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    wanted = set(model.state_dict())
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unknown:
        raise ValueError(
            f"weights {path} do not fit the model: {len(missing)} of its {len(wanted)} tensors are not there"
            f"{_first(missing)}, {len(unknown)} others are{_first(unknown)}: is --model the one that was trained?"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ValueError(
            f"weights {path} do not fit the model: {detail}: is --model the one that was trained, on as "
            "many channels (--channels 3 loads gray images as RGB) and classes?"
        ) from None


def _first(names: list[str]) -> str:
    """The first of many names, in brackets."""
    return f" ({names[0]}{', …' if len(names) > 1 else ''})" if names else ""


def save_weights(path: Path, state: dict[str, Tensor], /) -> None:
    """Write a state dict as safetensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors))
