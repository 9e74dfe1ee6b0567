"""Examples that are read from image files when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageFile
from torch import Tensor

from testbed.api import Batch, Invalid
from testbed.data.cache import digest_of, file_digests
from testbed.data.memory import check_indices
from testbed.data.splits import one_line

# Named, because Pillow would otherwise try every format that it knows, some of which start other programs.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
LARGEST_PIXELS = 25_000_000


@dataclass(frozen=True, eq=False)
class FolderExamples:
    """Image files `root/path`, decoded to uint8 `shape` (C, H, W) each time that they are read.

    A larger or smaller image is scaled, bilinear with antialiasing, until it covers (H, W), and its centre is kept.
    Images with 8 bits a channel become RGB (C = 3) or grey (C = 1), alpha is dropped, orientation tags are ignored.
    `labels` int64 (N,). `workers` is how many processes a reader should use. `cache` is where digests of files are
    remembered; None remembers nothing.

    Raises:
        Invalid: on reading a file that cannot be decoded, has more than 8 bits a channel, or more than 25 megapixels.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    shape: tuple[int, int, int]
    workers: int = 0
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Batch:
        check_indices(indices, len(self))
        images = np.empty((len(indices), *self.shape), dtype=np.uint8)
        for position, index in enumerate(indices.tolist()):
            image = read_image(self.root / self.paths[index], channels=self.shape[0], index=index)
            images[position] = channels_first(cover(image, self.shape[1:]))
        return Batch(torch.from_numpy(images), self.labels[indices], indices)

    def take(self, indices: Tensor) -> FolderExamples:
        """The chosen files, int64 (n,)."""
        check_indices(indices, len(self))
        return replace(self, paths=tuple(self.paths[index] for index in indices.tolist()), labels=self.labels[indices])

    @cached_property
    def digest(self) -> str:
        """That of the files' contents as they are now."""
        return rows_digest(self.shape, self.contents(), self.labels)

    def contents(self) -> tuple[str, ...]:
        """SHA-256 of each file."""
        return tuple(file_digests(self.root, self.paths, self.cache))


def rows_digest(shape: Sequence[int], contents: Sequence[str], labels: Tensor) -> str:
    """SHA-256 over the shape, how files become pixels, and each file's content and label, in this order."""
    reading = (repr(tuple(shape)), PIL.__version__, Path(__file__).read_bytes())
    return digest_of(*reading, *(f"{content}\0{label}" for content, label in zip(contents, labels.tolist(), strict=True)))


def read_image(path: Path, *, channels: int, index: int) -> Image.Image:
    """An image file as mode 'RGB' (3 channels) or 'L' (1 channel).

    Raises:
        Invalid: it cannot be decoded, has more than 8 bits a channel, or more than 25 megapixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_image(image, path, index)
            image.load()
            # A palette with transparency has to pass through RGBA, or Pillow guesses the transparent colour.
            plain = image.convert("RGBA") if "transparency" in image.info else image
            return plain.convert("RGB" if channels == 3 else "L")
    except (Invalid, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(path, index) from error
    except Exception as error:
        # Decoders meet damage with exceptions of any kind; all mean the same to the reader of the message.
        advice = "replace the file or take it away"
        raise Invalid("root", path, f"cannot decode this image (index {index}): {one_line(error)}", advice) from error


def check_image(image: ImageFile.ImageFile, path: Path, index: int) -> None:
    """Refuse, from its header alone, an image that is too large or has more than 8 bits a channel."""
    if image.width * image.height > LARGEST_PIXELS:
        raise too_large(path, index)
    # Pillow opens colour images of 16 bits as 'RGB' and cuts the low byte off; only the raw mode tells.
    deep = any(";16" in str(tile[3]) for tile in image.tile)
    if image.mode not in EIGHT_BIT_MODES or deep:
        limit = f"an image of mode {image.mode}{' with 16 bits a channel' if deep else ''} (index {index})"
        raise Invalid("root", path, f"{limit}, where 8 bits a channel are read", "convert it to 8 bits")


def too_large(path: Path, index: int) -> Invalid:
    """The refusal of an image of too many pixels."""
    limit = f"an image of more than {LARGEST_PIXELS // 1_000_000} megapixels (index {index})"
    return Invalid("root", path, limit, "scale it down")


def cover(image: Image.Image, size: tuple[int, ...]) -> Image.Image:
    """The centre of an image, scaled so that it covers `size` (H, W) exactly; unchanged where it has that size."""
    height, width = size
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def channels_first(image: Image.Image) -> np.ndarray:
    """uint8 (C, H, W)."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
