"""Search for the best options with Optuna, by ask and tell, in the place of a sweeper of Hydra.

Hydra accepts sweepers only from packages of its own name space, so the commands call this one. Trial n depends only on
the seed, on n and on the results before it: a study that was stopped and goes on has the trials of one that was not.
A trial that a killed command left is an unfinished job of the sweep, which resumes in its own folder.
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.types import Override

from sdegen.cli import trials
from sdegen.cli.arguments import EXECUTION
from sdegen.cli.trials import LOSS, Pruner
from sdegen.core import schema
from sdegen.core.checks import in_range
from sdegen.core.errors import UserError, nearest
from sdegen.core.meanings import HIGH, LOW, WORDS, good

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

TARGET = "sdegen.cli.search.Search"
"""Class of ``hydra/sweeper=optuna``."""
MEANING = ("sde", "weighting", "times", "objective", "dataset", "experiment")
"""Groups that change which loss is computed, so that held-out losses of two choices cannot be compared."""
FAILURES = 3
"""Number of failed trials, without any other, after which a search ends."""
STATES = {"complete": "finished", "pruned": "pruned", "fail": "failed", "running": "unfinished"}
"""Words for the states of Optuna's trials."""
OTHER = "another folder with hydra.sweep.dir=outputs/other"
Launch = Callable[[Sequence[Sequence[str]], int], object]
"""Function that runs jobs with these overrides, the first of them with this number."""


class Search:
    """Search over the options that have several values.

    Args:
        objective: ``held_out_loss``, or a metric of the samples, such as ``sliced_w1`` or ``accuracy``, which is
            maximised if larger values are better. With replicas it is the mean over the seeds.
        n_trials: number of trials of the study, with those of earlier commands.
        n_jobs: number of trials that are launched at once, for launchers that run several jobs at once.
        sampler: how options are chosen: ``tpe`` for the tree-structured Parzen estimator, or ``random``.
        pruner: rule that ends a run early by its held-out losses: ``median`` if the best so far is worse than the
            median of the earlier runs at the same step, ``halving`` for successive halving, or null.
        seed: seed of the sampler.
        params: values of options, by path, for a YAML file of a sweep.
    """

    def __init__(
        self,
        objective: str = LOSS,
        n_trials: int = 20,
        n_jobs: int = 1,
        sampler: Literal["tpe", "random"] = "tpe",
        pruner: Pruner = "median",
        seed: int = 0,
        params: dict[str, Any] | None = None,
    ) -> None:
        if objective != LOSS and good(objective) not in (LOW, HIGH):
            choices = [LOSS, *(name for name in WORDS if good(name) in (LOW, HIGH))]
            raise ValueError(f"objective={objective}: no metric to optimise; {nearest(objective, choices)}")
        self.objective, self.sampler, self.pruner, self.params = objective, sampler, pruner, params or {}
        self.n_trials = in_range("n_trials", n_trials, at_least=1)
        self.n_jobs = in_range("n_jobs", n_jobs, at_least=1)
        self.seed = in_range("seed", seed, at_least=0)
        self.space: dict[str, BaseDistribution] = {}
        self.fixed: list[str] = []
        self._began = False

    def over(self, overrides: Sequence[Override]) -> list[list[str]]:
        """Set the options to search and the fixed ones; return jobs that have every bound and every choice once."""
        self.space, self.fixed = {}, []
        for override in overrides:
            key = override.get_key_element()
            if not override.is_sweep_override():
                self.fixed.append(f"{key}={override.get_value_element_as_str()}")
                self.space.pop(key, None)
                continue
            try:
                self.space[key] = distribution(override)
            except ValueError as error:
                raise UserError(
                    f"{override.input_line}: cannot be searched: {str(error).rstrip('.')}: change the values"
                ) from None
        if not self.space:
            raise UserError(
                "hydra/sweeper=optuna: no option has several values: give some, as in "
                "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
            )
        self._check_comparable()
        ends = {key: _ends(values) for key, values in self.space.items()}
        first = {key: values[0] for key, values in ends.items()}
        points = [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]
        return [self._job(point) for point in points]

    def _check_comparable(self) -> None:
        """Raise UserError if the search compares held-out losses that are not comparable."""
        changed = next((key for key in self.space if key.lstrip("+").replace("/", ".").split(".")[0] in MEANING), None)
        losses = [(f"objective={LOSS}", "objective=sliced_w1")] if self.objective == LOSS else []
        losses += [] if self.pruner is None else [(f"pruner={self.pruner}", "pruner=null")]
        if changed is not None and losses:
            raise UserError(
                f"hydra.sweeper.{losses[0][0]}: compares held-out losses, and {changed} changes what the loss is: set "
                f"{' and '.join(f'hydra.sweeper.{fix}' for _, fix in losses)}"
            )

    def _job(self, values: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *(f"{key}={_written(value)}" for key, value in values.items())]

    def run(self, sweep: Path, launch: Launch) -> None:
        """Launch trials until the study in the folder of the sweep has ``n_trials``."""
        from sdegen.runs import locks

        with locks.claimed(sweep):
            found = self._study(sweep)
            self._began = True
            # Trials that a killed command left come first.
            left = [trial.number for trial in found.get_trials(deepcopy=False) if not trial.state.is_finished()]
            while batch := left[: self.n_jobs] or self._ask(found):
                left = left[len(batch) :]
                jobs = [self._job(trial.params) for trial in found.get_trials(deepcopy=False)]
                # A launcher numbers its jobs from a first one on.
                for _, block in itertools.groupby(enumerate(batch), lambda pair: pair[1] - pair[0]):
                    numbers = [number for _, number in block]
                    launch([[line for line in jobs[n] if not line.startswith("hydra")] for n in numbers], numbers[0])
                self._close(found, batch)

    def _ask(self, found: optuna.Study) -> list[int]:
        """Returns the numbers of new trials, whose options the sampler has chosen; empty if there are ``n_trials``."""
        from optuna.samplers import RandomSampler, TPESampler

        from sdegen.core.randomness import derive

        first, kind = len(found.get_trials(deepcopy=False)), TPESampler if self.sampler == "tpe" else RandomSampler
        numbers = range(first, min(first + self.n_jobs, self.n_trials))
        for number in numbers:
            # A sampler with a state would give a study that goes on other trials than a study in one piece.
            found.sampler = kind(seed=derive(self.seed, "trial", number) % 2**32)
            found.ask(self.space)
        return list(numbers)

    def _close(self, found: optuna.Study, batch: Sequence[int]) -> None:
        """Record jobs without a result as failed; raise UserError if all of the first trials have failed."""
        import optuna

        for number in batch:
            found.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        states = Counter(trial.state for trial in found.get_trials(deepcopy=False))
        failed = states[optuna.trial.TrialState.FAIL]
        if failed >= max(FAILURES, self.n_jobs) and failed == states.total():
            raise UserError(f"the first {failed} trials failed: correct what their messages name, and remove the sweep")

    def _study(self, sweep: Path) -> optuna.Study:
        """Returns the study of a sweep; raises UserError if the study in its folder searches something else."""
        path = sweep / trials.JOURNAL
        if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
            # A full disk or a power failure has cut the last line off.
            path.write_bytes(text[: text.rfind(b"\n") + 1])
        try:
            found = trials.study(sweep, self.objective, self.pruner)
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}: is damaged: remove the folder of the sweep, or choose another with {OTHER}"
            ) from None
        fixed = sorted(line for line in self.fixed if not line.startswith(EXECUTION))
        own = [*fixed, *(f"{key}={values}" for key, values in self.space.items()), self.objective]
        if found.user_attrs.setdefault("search", own) != own:
            raise UserError(f"{sweep}: holds a search over other options or for another objective: choose {OTHER}")
        found.set_user_attr("search", own)
        return found

    def conclude(self, sweep: Path) -> list[str]:
        """Write a table of the trials, the best first, for the report; return lines about them and the best one.

        The result is empty if the search has not begun.
        """
        from sdegen.reports.collection import TRIALS
        from sdegen.runs import files

        if not self._began:
            return []
        found = trials.study(sweep, self.objective, self.pruner)
        done = found.get_trials(deepcopy=False)
        states = Counter(trial.state.name.lower() for trial in done)
        lines = [f"{len(done)} trials: {', '.join(f'{number} {STATES[state]}' for state, number in states.items())}"]
        finished = [trial for trial in done if trial.state.name == "COMPLETE"]
        finished.sort(key=lambda trial: trial.values[0], reverse=good(self.objective) == HIGH)
        weights = importances(found) if len(finished) > 1 else {}
        rows = [
            {
                "trial": trial.number,
                "state": STATES[trial.state.name.lower()],
                self.objective: trial.value if trial in finished else None,
                "last step": max(trial.intermediate_values, default=None),
                **trial.params,
            }
            for trial in [*finished, *(trial for trial in done if trial not in finished)]
        ]
        files.write_json(sweep / TRIALS, {"trials": rows, "importances": weights})
        if finished:
            best = found.best_trial
            lines += [
                f"best: trial {best.number}, {self.objective} {best.value:.5g}, in {best.user_attrs['folder']}",
                *(f"  {key}={_written(value)}" for key, value in best.params.items()),
                f"train it again with: {best.user_attrs['command']}",
            ]
        if weights:
            lines.append(f"importances: {', '.join(f'{key} {share:.0%}' for key, share in weights.items())}")
        return lines


def _written(value: object) -> str:
    """Returns a value of an option as text, with few enough digits for a command that a person repeats."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _ends(values: Any) -> list[Any]:  # noqa: ANN401 - a distribution of any kind
    """Returns all choices, or the lower and the upper bound."""
    return list(values.choices) if hasattr(values, "choices") else [values.low, values.high]


def importances(found: optuna.Study) -> dict[str, float]:
    """Returns the share of each option in the differences between the trials, by PED-ANOVA; empty if unknown."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(get_param_importances(found, evaluator=PedAnovaImportanceEvaluator()))
        except (ValueError, RuntimeError):
            # A few trials, or equal ones, say nothing about the options.
            return {}


def distribution(override: Override) -> BaseDistribution:
    """Returns the values of an option that is searched; raises ValueError if Optuna has no such distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values: Any = override.value()
    log = "log" in getattr(values, "tags", ())
    if override.is_interval_sweep():
        whole = isinstance(values.start, int) and isinstance(values.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return kind(values.start, values.end, log=log)
    if override.is_range_sweep():
        steps = list(values.range())
        if not steps:
            raise ValueError("the range is empty")
        kind = IntDistribution if all(isinstance(step, int) for step in steps) else FloatDistribution
        return kind(min(steps), max(steps), log=log, **({} if log else {"step": abs(values.step)}))
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ValueError("the list has no values")
    return CategoricalDistribution(choices)


def chosen(node: Mapping[str, Any]) -> Search | None:
    """Returns the search that the node ``hydra.sweeper`` describes, or None if it describes another sweeper.

    Raises:
        UserError: an option is wrong, or Optuna is not installed.
    """
    if node.get("_target_") != TARGET:
        return None
    # The seed and the values of options are no options of a node.
    options, seed = {key: value for key, value in node.items() if key not in ("params", "seed")}, node.get("seed")
    found = schema.faults(options, Search, "hydra.sweeper")
    if found := [*found, *schema.option_faults({"seed": seed}, {"seed": int}, "hydra.sweeper.")]:
        raise UserError("\n".join(found))
    if importlib.util.find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna: needs the package optuna: pip install optuna")
    try:
        search: Search = schema.construct(options, seed=seed)
    except ValueError as error:
        raise UserError(f"hydra.sweeper.{error}") from None
    search.params = dict(node.get("params") or {})
    return search
