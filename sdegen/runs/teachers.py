"""Construction of the parts of a run, with the run of the teacher from which its network learns, if there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdegen.config import assembly
from sdegen.config.components import Components
from sdegen.config.compose import Config
from sdegen.core.errors import UserError
from sdegen.core.schema import ANYTHING, Trust
from sdegen.models.moments import Moments
from sdegen.runs.trained import Trained
from sdegen.training.teacher import Teacher


def replicated(config: Config, trust: Trust = ANYTHING, moments: Sequence[Moments | None] = ()) -> list[Components]:
    """Builds the parts of a run and of its replicas: see :func:`sdegen.config.assembly.replicated`."""
    return assembly.replicated(config, trust, moments, _loader(config, trust))


def build(config: Config, trust: Trust = ANYTHING) -> Components:
    """Builds the parts of a run: see :func:`sdegen.config.assembly.build`."""
    return assembly.build(config, trust, load=_loader(config, trust))


def _loader(config: Config, trust: Trust) -> Callable[[str | None, type], Teacher | None]:
    """Returns the function that loads the run of the objective. The run may come from a stranger."""
    trusted = tuple(config.get("trust") or ()) if tuple(trust) == ANYTHING else trust
    which = config["objective"].get("checkpoint", "last")

    def load(folder: str | None, kind: type) -> Teacher | None:
        if folder is None:
            return None
        try:
            trained = Trained(Path(folder), which, device="cpu", trust=trusted)
            own = trained.config
            return Teacher(
                str(trained.folder),
                trained.step,
                trained.digest,
                trained.score_model,
                trained.fingerprint,
                own["sde"],
                trained.units,
            )
        except UserError as error:
            raise UserError(f"objective.run: {error}") from None

    return load
