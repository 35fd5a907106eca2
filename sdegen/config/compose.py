"""The YAML files in ``conf/``, and configurations that Hydra composes from these files.

Hydra is imported in the functions, so that a module that needs only :data:`CONF` does not wait for Hydra.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERSION_BASE = "1.3"
"""Version of Hydra whose default behaviour the YAML files assume."""

CONF = next(path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())
"""Folder of the YAML files. In an installation it is inside the package, in a checkout it is beside the package."""

Config = dict[str, Any]


def primary(name: str) -> tuple[Config, dict[str, str | None]]:
    """Returns the options of ``conf/<name>.yaml``, and the default choice of each group in this file.

    The groups of a file on which it is based, such as train.yaml for calibrate.yaml, are included.
    """
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    defaults = options.pop("defaults")
    pairs = [pair for default in defaults if isinstance(default, dict) for pair in default.items()]
    bases = [default for default in defaults if isinstance(default, str) and default != "_self_"]
    inherited = {group: choice for base in bases for group, choice in primary(base)[1].items()}
    return options, inherited | {group: choice for group, choice in pairs if not group.startswith("override ")}


def composed(name: str, overrides: Sequence[str]) -> Config:
    """Returns the configuration ``conf/<name>.yaml`` with overrides, as plain data.

    Raises:
        HydraException: an override names an unknown option or choice, or cannot be read.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        config = hydra.compose(name, overrides=list(overrides), return_hydra_config=True)
    # Interpolations such as ${hydra:runtime.choices.dataset} read this global configuration.
    HydraConfig.instance().set_config(config)
    return plain(config)


def plain(config: DictConfig) -> Config:
    """Returns a composed configuration as plain data, with interpolations resolved and without the node ``hydra``.

    The steps of a sampler follow from a list of times if no override gives them.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    found = {str(key): value for key, value in content.items()}
    if isinstance(sampler := found.get("sampler"), dict):
        # A job has the node only in the global configuration.
        node = config.hydra if "hydra" in config else HydraConfig.get()
        given = [override.lstrip("+").partition("=")[0] for override in node.overrides.task]
        found["sampler"] = with_steps_of_list(sampler, [name.removeprefix("sampler.") for name in given])
    return found


def with_steps_of_list(sampler: Config, given: Collection[str]) -> Config:
    """Returns the node of a sampler, whose list of times fixes ``steps`` if this is not among the ``given`` options."""
    grid = sampler.get("grid")
    if not isinstance(grid, list | tuple) or "steps" in given:
        return sampler
    return {**sampler, "steps": "auto"}
