"""Network in a user's file, which gives the features of images that ``metrics=fid`` compares.

The file is a program of ``torch.export`` (``.pt2``), or the state dict of a class that the user names. A state dict is
read without running code (``weights_only``), and its class must be trusted. A program is not safe: torch unpickles
objects in it, which can run any code. So it is read only if the user gives the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import io
import logging
import textwrap
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.progress import Progress
from sdegen.core.schema import Trust
from sdegen.core.tensors import not_finite
from sdegen.runs import files

PROGRAM = ".pt2"
"""Suffix of the files of ``torch.export``."""
SEVERAL = 3
"""Number of images with which a network is tried at once before samples are drawn."""
CLOSE = 1e-2
"""Largest relative change of an image's features with the other images of a batch. Rounding changes them by 1e-5."""


class FeatureFile(NamedTuple):
    """File with a network, as the user's options name it.

    Attributes:
        path: path of the file.
        network: class of the network of a state dict, ``module.Class``; None for a program.
        sha256: SHA-256 of the file in hexadecimal digits; None if the user gives none.
        trust: modules outside of this package whose classes may be built.
    """

    path: str
    network: str | None
    sha256: str | None
    trust: Trust

    def read(self, device: torch.device) -> FeatureNetwork:
        """Returns the network on a device; raises UserError if the file is missing, damaged or refused."""
        path, name = Path(self.path), f"features={self.path}"
        if not path.is_file():
            raise UserError(f"{name}: no such file")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if self.sha256 is not None and self.sha256.lower() != digest:
            raise UserError(
                f"{name}: another file than expected: its SHA-256 is {digest}: if you trust this file, set "
                f"features_sha256={digest}"
            )
        if path.suffix != PROGRAM:
            return FeatureNetwork(self, digest, self._of_class(name, content).to(device).eval(), device)
        if self.network is not None:
            raise UserError(f"{name}: a program needs no class: leave out features_class={self.network}")
        if self.sha256 is None:
            raise UserError(
                f"{name}: a {PROGRAM} file can run any code when it is read: if you trust it, set "
                f"features_sha256={digest}"
            )
        return FeatureNetwork(self, digest, _program(name, content, device), device)

    def _of_class(self, name: str, content: bytes) -> nn.Module:
        """Returns the network of a state dict. The file is not read again, because it may have changed since."""
        if self.network is None:
            raise UserError(
                f"{name}: a state dict needs the class of its network: add features_class=module.Class trust=[module]"
            )
        try:
            cls = schema.resolve(self.network, self.trust, "features_class")
        except ValueError as error:
            raise UserError(str(error)) from None
        if not issubclass(cls, nn.Module):
            raise UserError(f"features_class={self.network}: is no torch.nn.Module: name the class of the network")
        try:
            state = files.stored(Path(self.path), content)
        except UserError as error:
            raise UserError(f"features: {error}: save the state dict again with torch.save") from None
        try:
            network = cls()
        except Exception as error:
            raise UserError(
                f"features_class={self.network}: cannot be built without arguments ({_reason(error)}): give its "
                f"arguments default values"
            ) from None
        try:
            network.load_state_dict(state)  # type: ignore[arg-type]
        except Exception as error:
            raise UserError(
                f"{name}: the weights do not fit features_class={self.network} ({_reason(error)}): name the class that "
                f"has this state_dict"
            ) from None
        return network


class FeatureNetwork:
    """Network that returns features ``(N, F)`` of images ``(N, C, H, W)``, which are float32 from 0 to 1.

    Args:
        file: file of the network.
        sha256: SHA-256 of the file.
        network: module.
        device: device of the module.
    """

    def __init__(self, file: FeatureFile, sha256: str, network: nn.Module, device: torch.device) -> None:
        self._file, self._sha256, self._network, self._device = file, sha256, network, device
        self._name = f"features={file.path}"

    def facts(self) -> dict[str, str]:
        """Returns what identifies the network: the path of its file, the SHA-256 and the class, as plain data."""
        known = {"path": self._file.path, "class": self._file.network, "sha256": self._sha256}
        return {name: value for name, value in known.items() if value is not None}

    def check(self, images: Tensor) -> int:
        """Returns the number of features; raises UserError if the network does not take the images.

        The first image is tried alone, and then with two others. Other images must have other features.
        """
        alone = self._features(images[:1], "give a network that takes this size and this number of channels")
        fix = "it takes one image, so export it with a dynamic number of images"
        together = self._features(images[:SEVERAL], fix)
        if not together.isfinite().all():
            raise UserError(f"{self._name}: the features of images of the data are not finite: use another network")
        if bool((together == together[0]).all()) and not bool((images[:SEVERAL] == images[0]).all()):
            raise UserError(
                f"{self._name}: the features of different images are equal: use a network that takes numbers from 0 to "
                f"1, and not 0 to 255"
            )
        off = (alone[0] - together[0]).abs().max()
        if not off <= CLOSE * together.abs().max():
            raise UserError(
                f"{self._name}: the features of an image change with the other images of its batch: export the network "
                f"after network.eval()"
            )
        return alone.shape[1]

    def __call__(self, images: Tensor, batch_size: int, what: str) -> Tensor:
        """Returns the features of images, ``(N, F)`` float64 on the CPU, computed in batches.

        Args:
            images: images ``(N, C, H, W)`` from 0 to 1.
            batch_size: number of images computed at once.
            what: name of the images in the report of the progress.
        """
        report, found, done = Progress(f"features of {what}", "images"), [], 0
        for part in images.split(batch_size):
            found.append(self._features(part, "try a smaller batch_size"))
            done += len(part)
            report.to(done, len(images))
        report.close()
        features = torch.cat(found)
        if why := not_finite([features], f"features of {what}"):
            raise UserError(f"{self._name}: {why}: use another network")
        return features

    @torch.no_grad()
    def _features(self, images: Tensor, fix: str) -> Tensor:
        try:
            found = self._network(images.to(self._device, torch.float32).contiguous())
        except Exception as error:
            # Networks raise exceptions of many types for images of another shape.
            raise UserError(
                f"{self._name}: the network does not take float32 images of shape {tuple(images.shape)} "
                f"({_reason(error)}): {fix}"
            ) from None
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images) or not found.shape[1]:
            raise UserError(
                f"{self._name}: the network returns {shape} for {len(images)} images: return features (N, F), one row "
                f"for each image"
            )
        return found.double().cpu()


def _program(name: str, content: bytes, device: torch.device) -> nn.Module:
    """Returns the module of a program of ``torch.export``, on a device."""
    from torch.export.passes import move_to_device_pass

    # torch logs the whole traceback of a damaged file before it raises an error.
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return move_to_device_pass(torch.export.load(io.BytesIO(content)), device).module()
    except Exception as error:
        raise UserError(
            f"{name}: is no program that this version of torch reads ({_reason(error)}): export it again with "
            f"torch.export.save, from torch {torch.__version__}"
        ) from None
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Returns the first words of an error of torch, in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" …")
