"""Objects as bytes, for the exchange between the processes of one command, and failures as answers."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class Lost(UserError):
    """The loss of another process. Nothing can be exchanged any more.

    Attributes:
        speaks: True for the first process that still runs, which reports the loss.
    """

    speaks = True


class Failure:
    """An error in a process, which process 0 reports."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def raised(self, rank: int) -> Exception:
        """Returns the error to raise in process 0; ``rank`` is the process in which it occurred."""
        if rank:
            self.error.args = (f"process {rank}: {self.error}",)
        return self.error

    def __getstate__(self) -> dict[str, Any]:
        # Errors may not be picklable. Process 0 needs only the text, and the trace of an error that nobody expected.
        if isinstance(self.error, UserError):
            return {"error": UserError(str(self.error))}
        return {"error": RuntimeError("".join(traceback.format_exception(self.error)).rstrip())}


def attempt(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - the result of any function
    """Returns the result of a function, or its failure."""
    try:
        return work()
    except Lost:
        raise
    except Exception as error:  # noqa: BLE001 - process 0 raises it
        return Failure(error)


def packed(content: object) -> Tensor:
    """Returns an object as bytes ``(N,)``."""
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def unpacked(data: Tensor) -> Any:  # noqa: ANN401 - any object
    """Returns the object of some bytes, with its tensors on the CPU or on the own CUDA device.

    The bytes come from a process of the same command, which torchrun connects, and never from a file.
    """
    import torch

    def place(storage: Any, location: str) -> Any:  # noqa: ANN401 - torch's storages
        own = f"cuda:{torch.cuda.current_device()}" if location.startswith("cuda") else location
        return torch.serialization.default_restore_location(storage, own)

    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location=place, weights_only=False)
