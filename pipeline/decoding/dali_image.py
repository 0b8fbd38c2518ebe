"""DALI's parser and decoder for one image at a time: what they refuse, a loader cannot give.

DALI 2.4 parses the headers of 32 images or more in several threads, and an image that it cannot parse, or a window
outside of one, then ends the whole process with a segmentation fault (in smaller batches it is an error). An EXIF block
that turns an image on its side before another that does not has the same end, in a batch of any size. So the parser
sees each image alone first, and orientation is left out of decoding: catalogs say how images are turned.
"""

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding.exif import png_chunks
from drawstream.pipeline.decoding.quiet import silence

_EXIF_FLAG = 0x08  # of the VP8X chunk of a WebP, byte 20
_ANIMATION = b"acTL"
_thread = local()  # a decoder for each depth: a pipeline runs in one thread at a time


WITHOUT = "DALI is not installed: Pillow alone judged the images; run `drawstream verify` where they are trained on"


@cache
def parser() -> Any:
    """Return `CodeStream` of nvImageCodec, or None where DALI is not installed."""
    try:
        if find_spec("nvidia.dali") is None:
            return None
        import nvidia.nvimgcodec as codec
    except (ImportError, OSError):
        return None
    silence(Path(codec.nvimgcodec_impl.__file__))
    return codec.CodeStream


def parse(data: NDArray[np.uint8], /) -> tuple[str, int, int]:
    """Codec, height and width as stored, of uint8 (bytes,); made ``plain``.

    Raises:
        ValueError: DALI cannot parse it.
    """
    try:
        header = parser()(data)
        return str(header.codec_name), int(header.height), int(header.width)
    except RuntimeError:
        raise ValueError("DALI cannot parse its header") from None


def plain(data: NDArray[np.uint8], /) -> bool:
    """Hide from DALI, in place, what leads it astray in an image file, uint8 (bytes,).

    In WebPs the flag of EXIF: DALI 2.4 then looks for that chunk, and loses its way behind one of odd length. In PNGs
    the name of the chunk that announces an animation: DALI 2.4 then gives a frame in place of the still image, or ends
    with a segmentation fault.

    Returns:
        Whether there was something to hide.
    """
    start = data[:16].tobytes()
    if start[8:] == b"WEBPVP8X" and len(data) > 20 and data[20] & _EXIF_FLAG:
        data[20] ^= _EXIF_FLAG
        return True
    if start[:4] != b"\x89PNG" or _ANIMATION not in data.tobytes():
        return False
    found = False
    whole = data.data
    for name, at, _ in png_chunks(whole):
        if name == _ANIMATION:
            whole[at - 4 : at] = b"acXX"  # of a wrong checksum, too: such a chunk is passed over
            found = True
        elif name == b"IDAT":
            break
    return found


def pixels(data: bytes | memoryview, channels: int, /) -> NDArray[np.uint8]:
    """Decode a file that ``parse`` takes as the loader does on the CPU, not turned: uint8 (height, width[, 3]).

    Raises:
        ValueError: DALI cannot decode it.
    """
    image = np.frombuffer(data, np.uint8).copy()
    plain(image)
    decoders = _thread.__dict__
    name = f"channels{channels}"
    decoder = decoders.pop(name, None) or _Decoder(channels)
    try:
        found = decoder.decode(image)
    except (RuntimeError, ValueError):  # the decoder is not to be trusted after an error
        raise ValueError("DALI cannot decode it") from None
    decoders[name] = decoder
    return found


class _Decoder:
    """A graph that decodes one image."""

    def __init__(self, channels: int) -> None:
        import nvidia.dali

        parser()  # silences the decoder
        dali: Any = nvidia.dali
        self._shape = (-1,) if channels == 3 else ()
        self._image: Any = None
        self._pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
        kind = dali.types.RGB if channels == 3 else dali.types.GRAY
        with self._pipeline:
            source = dali.fn.external_source(
                source=lambda: [self._image], dtype=dali.types.UINT8, ndim=1, batch=True, no_copy=True
            )
            options = {"device": "cpu", "output_type": kind, "adjust_orientation": False}
            self._pipeline.set_outputs(dali.fn.decoders.image(source, **options))
        self._pipeline.build()

    def decode(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._image = image
        (images,) = self._pipeline.run()
        found: NDArray[np.uint8] = np.array(images.at(0))
        return found if found.shape[2] == 3 else found[..., 0]


os.register_at_fork(after_in_child=lambda: _thread.__dict__.clear())  # the graphs' threads are in the parent
