"""The YAML files of ``conf/`` and their composition, as Hydra does it on the command line.

Hydra is imported late, so that a module that only needs :data:`CONF` does not wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERSION_BASE = "1.3"
"""The version of Hydra whose defaults the YAML files are written for."""

CONF = next(path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())
"""The folder of the YAML files: inside an installed package, beside the package in a checkout."""

Config = dict[str, Any]


def primary(name: str) -> tuple[Config, dict[str, str | None]]:
    """Returns the options of ``conf/<name>.yaml``, and its groups with their default choices."""
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    pairs = [pair for default in options.pop("defaults") if isinstance(default, dict) for pair in default.items()]
    return options, {group: choice for group, choice in pairs if not group.startswith("override ")}


def composed(name: str, overrides: Sequence[str]) -> Config:
    """Returns the configuration ``conf/<name>.yaml`` with overrides, as plain data.

    Raises:
        HydraException: an override names no option or no choice, or cannot be read.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        config = hydra.compose(name, overrides=list(overrides), return_hydra_config=True)
    # Interpolations such as ${hydra:runtime.choices.dataset} need it.
    HydraConfig.instance().set_config(config)
    return plain(config)


def plain(config: DictConfig) -> Config:
    """Returns a composed configuration as plain data, with interpolations resolved and without Hydra's own part."""
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
