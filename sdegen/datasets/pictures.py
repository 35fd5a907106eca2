"""Picture files: the files in a folder, the facts in their headers, and their pixels in one size and one mode."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are read. All other formats that Pillow knows are refused, because some of them are rarely tested."""
SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found", "$recycle.bin")
"""Names, in lower case, of files and folders that operating systems leave among pictures."""
ORIENTATION = 0x0112
"""Number of the EXIF field that says how a picture must be turned."""
SIDEWAYS = range(5, 9)
"""Orientations that exchange height and width."""
RGB = ("RGB", "RGBA", "LA")
"""Pillow's modes of 8 bits in which it reads pictures with 16 bits per colour."""
DEEP = 2**16
"""Number of values of a pixel with 16 bits."""
GROUP = 256
"""Number of files that are read ahead."""


class Listing(NamedTuple):
    """Files of a folder of pictures.

    Attributes:
        groups: sorted files of each class; a single group if there is no sub-folder.
        classes: names of the sub-folders; empty if there is no sub-folder.
        skipped: names of hidden files and of files of the operating system.
    """

    groups: list[list[Path]]
    classes: tuple[str, ...]
    skipped: tuple[str, ...]


class Header(NamedTuple):
    """Facts from the header of a picture.

    Attributes:
        height: height in pixels, after the picture is turned.
        width: width in pixels, after the picture is turned.
        deep: True for a grey picture with 16 bits, whose values are kept.
        turned: True if the EXIF orientation turns or mirrors the picture.
        reduced: True for 16 bits per colour, of which the upper 8 are read.
        several: True if the file holds further pictures, which are not read.
    """

    height: int
    width: int
    deep: bool
    turned: bool
    reduced: bool
    several: bool


def listed(folder: Path) -> Listing:
    """Returns the files of each sub-folder, or of the folder itself; raises ValueError for files in other places."""
    if not os.path.isdir(folder):
        raise ValueError(
            f"path={folder}: {'is a file, not a' if os.path.isfile(folder) else 'no such'} folder: give a folder"
        )
    skipped: list[str] = []
    inside = _entries(folder, skipped)
    folders = [path for path in inside if path.is_dir()]
    for path in inside:
        if folders and path not in folders:
            raise ValueError(f"path={path}: lies beside folders of classes: move it into one of them, or remove it")
    groups = [_entries(path, skipped) for path in folders] or [inside]
    for path, group in zip(folders or [folder], groups, strict=True):
        if not group:
            raise ValueError(f"path={path}: holds no image: add images, or remove the folder")
        for file in group:
            if file.is_dir():
                raise ValueError(f"path={file}: is a folder within the folder of a class: move its images up")
    return Listing(groups, tuple(path.name for path in folders), tuple(skipped))


def _entries(folder: Path, skipped: list[str]) -> list[Path]:
    """Returns the sorted entries of a folder; adds the names of the entries that are no pictures to ``skipped``."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"path={folder}: cannot be read: {error.strerror}: check the permissions") from None
    stray = [path for path in found if path.name.startswith(".") or path.name.lower() in SYSTEM]
    skipped += [path.name for path in stray]
    return [path for path in found if path not in stray] if stray else found


def skipped_in_words(skipped: Sequence[str]) -> list[str]:
    """Returns a sentence about the files that were skipped; an empty list if there are none."""
    if not skipped:
        return []
    names = [f"{count} × {name}" if count > 1 else name for name, count in Counter(skipped).most_common(4)]
    more = ", …" if len(set(skipped)) > 4 else ""
    return [f"skipped {_count(len(skipped), 'hidden file')} or files of the system: {', '.join(names)}{more}"]


def headers(files: Sequence[Path]) -> list[Header]:
    """Returns the headers of all files, in order; raises ValueError for the first file that is no picture."""
    return list(_in_order(_header, files))


def arrays(files: Sequence[Path], mode: str, size: tuple[int, int], deep: bool) -> Iterator[np.ndarray]:
    """Yields the pixels of each file, ``(C, H, W)``: uint8, or int32 for ``deep`` pictures.

    A picture of another size than ``size`` (height and width) is scaled by a Lanczos filter, which is wider for larger
    pictures so that fine patterns do not alias, until it covers this size; then its centre is cut out.
    """
    return _in_order(lambda file: _pixels(file, mode, size, deep), files)


def in_words(found: Sequence[Header], size: tuple[int, int]) -> tuple[str, ...]:
    """Returns sentences about the changes of pictures that are read in a size; empty if nothing is changed."""
    height, width = size
    shapes = {(one.height, one.width) for one in found}
    small = sum(one.height < height or one.width < width for one in found)
    facts = [
        (sum(one.turned for one in found), "turned as the orientation in the EXIF data says"),
        (sum(one.reduced for one in found), "read with 8 of the 16 bits of each colour"),
        (sum(one.several for one in found), "with several pictures in the file, of which the first is read"),
        (small, f"enlarged, because the picture is smaller than {height} × {width}"),
    ]
    lines = [f"{_count(count, 'image')} {words}" for count, words in facts if count]
    if shapes != {size}:
        ends = [(min(sides), max(sides)) for sides in zip(*shapes, strict=True)]
        stored = " × ".join(f"{low} to {high}" if low < high else str(low) for low, high in ends)
        lines.insert(0, f"scaled from {stored} pixels and cut to the centre, {height} × {width}")
    return tuple(lines)


def common_size(files: Sequence[Path], found: Sequence[Header]) -> tuple[int, int]:
    """Returns the height and width of all pictures; raises ValueError if the sizes differ."""
    first = found[0]
    for file, one in zip(files, found, strict=True):
        if (one.height, one.width) != (first.height, first.width):
            side = 2 ** int(math.log2(min(min(header.height, header.width) for header in found)))
            raise ValueError(
                f"path={file}: has {one.height} × {one.width} pixels (height × width), but {files[0].name} has "
                f"{first.height} × {first.width}: resize and crop all images, for example by "
                f"dataset.size={min(side, 64)}"
            )
    return first.height, first.width


def common_depth(files: Sequence[Path], found: Sequence[Header]) -> bool:
    """Returns True if all pictures have 16 bits, False if none has; raises ValueError if the depths differ."""
    for file, one in zip(files, found, strict=True):
        if one.deep != found[0].deep:
            names = (file.name, files[0].name) if one.deep else (files[0].name, file.name)
            raise ValueError(
                f"path={file.parent}: {names[0]} has 16 bits per pixel, but {names[1]} has 8: convert all to one "
                f"depth, for example by mogrify -depth 8"
            )
    return found[0].deep


def _in_order(read: Callable[[Path], Result], files: Sequence[Path]) -> Iterator[Result]:
    """Yields the results of a function for all files, in order. Several threads run it: Pillow decodes in parallel."""
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Pillow warns about fields that it cannot read; the pixels are checked here.
        warnings.simplefilter("ignore")
        for start in range(0, len(files), GROUP):
            yield from pool.map(read, files[start : start + GROUP])


def _header(file: Path) -> Header:
    from PIL import Image, UnidentifiedImageError

    try:
        with file.open("rb") as raw, Image.open(raw, formats=FORMATS) as image:
            (width, height), mode = image.size, image.mode
            if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            turn = _orientation(image, file)
            if turn in SIDEWAYS and image.format != "TIFF":
                height, width = width, height
            halved = image.format in ("PNG", "TIFF") and mode in RGB and ";16" in str(image.tile)
            several = getattr(image, "n_frames", 1) > 1
    except Image.DecompressionBombError:
        raise ValueError(f"path={file}: has too many pixels to be decoded: remove or shrink it") from None
    except UnidentifiedImageError:
        raise ValueError(f"path={file}: is not a PNG, JPEG, WebP, BMP or TIFF image: remove or convert it") from None
    except Exception as error:  # Pillow raises many types of errors on damaged files.
        raise ValueError(f"path={file}: cannot be read: {error}: remove it, or copy it again") from None
    if mode in ("I", "F"):
        raise ValueError(
            f"path={file}: has 32 bits per pixel: convert it to 16 or 8, or save all images as a .npy for dataset=file"
        )
    return Header(height, width, mode.startswith("I;16"), turn != 1, halved, several)


def _pixels(file: Path, mode: str, size: tuple[int, int], deep: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        # From a path, Pillow maps an uncompressed TIFF with turned sides into memory in the wrong order.
        with file.open("rb") as raw, Image.open(raw, formats=FORMATS) as image:
            turn = _orientation(image, file)
            _decode_small(image, size[::-1] if turn in SIDEWAYS else size)
            opaque = not image.has_transparency_data or np.asarray(image.convert("RGBA"))[..., 3].min() == 255
            # Pillow turns a TIFF itself while it decodes the pixels.
            turned = image if turn == 1 or image.format == "TIFF" else ImageOps.exif_transpose(image)
            pixels = _fitted(turned, size) if deep else np.asarray(_resized(turned.convert(mode), size))
    except Exception as error:  # Pillow raises many types of errors on damaged files.
        raise ValueError(f"path={file}: is damaged: remove it, or copy it again ({error})") from None
    if not opaque:
        raise ValueError(f"path={file}: has transparent pixels: flatten it, by mogrify -background white -flatten")
    pixels = pixels.reshape(*size, -1)
    return np.moveaxis(np.broadcast_to(pixels, (*size, len(mode))), 2, 0)


def _orientation(image: Image, file: Path) -> int:
    """Returns the orientation of an open picture by its EXIF data, from 1 (upright) to 8."""
    # Pillow would decode a whole PNG to find EXIF data behind the pixels.
    if image.format == "PNG" and b"eXIf" not in file.read_bytes():
        return 1
    turn = image.getexif().get(ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _decode_small(image: Image, size: tuple[int, int]) -> None:
    """Makes a large JPEG decode to an eighth, a quarter or half of its size, but at least twice the wanted size.

    Decoding is the largest cost of photographs. Pillow's thumbnails do the same.
    """
    scale = 2 * max(size[0] / image.height, size[1] / image.width)
    if image.format in ("JPEG", "MPO") and scale < 1:
        image.draft(None, (math.ceil(scale * image.width), math.ceil(scale * image.height)))


def _fitted(image: Image, size: tuple[int, int]) -> np.ndarray:
    """Returns a grey picture with 16 bits in the wanted size, int32."""
    from PIL import Image as Pillow

    values = np.asarray(image)
    if values.shape != size:
        # Pillow's filters of 16 bits are less precise. The filter may leave the range of the values.
        values = np.asarray(_resized(Pillow.fromarray(values.astype(np.float32)), size)).round().clip(0, DEEP - 1)
    return values.astype(np.int32)


def _resized(image: Image, size: tuple[int, int]) -> Image:
    """Returns the centre of a picture in the wanted size; a picture of this size is returned unchanged."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    return ImageOps.fit(image, size[::-1], Pillow.Resampling.LANCZOS)


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
