"""Trials of a search over options: the study in the sweep's folder, and the reports of a job to its trial.

The study is a journal of Optuna, which the jobs write, too, because a launcher may run a job in another process.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from sdegen.core.errors import UserError
from sdegen.core.meanings import HIGH, good

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
"""File in the sweep's folder with the study."""
LOSS = "held_out_loss"
"""Objective for the loss of the trained network on held-out points."""
WARM_UP = 5
"""Number of held-out losses of a run that are too early to judge it, of at least twenty."""
Pruner = Literal["median", "halving"] | None


class Trial:
    """Trial of a study, to which the job with the same number reports.

    Args:
        sweep: folder of the sweep.
        number: number of the trial and of the job.
        objective: metric that the study optimises, or :data:`LOSS`.
        pruner: rule that ends runs early; None for no such rule.
    """

    def __init__(self, sweep: Path, number: int, objective: str, pruner: Pruner) -> None:
        import optuna

        self.objective, self._prunes = objective, pruner is not None
        self._study = study(sweep, objective, pruner)
        storage = self._study._storage
        own = storage.get_study_id_from_name(self._study.study_name)
        self._trial = optuna.trial.Trial(self._study, storage.get_trial_id_from_study_id_trial_number(own, number))
        # A resumed run repeats the losses since its last checkpoint.
        self._reported = set(self._study.get_trials(deepcopy=False)[number].intermediate_values)

    def watch(self, step: int, loss: float | None) -> bool:
        """Report the held-out loss at a step, None if there is none; return True if the run should end early."""
        if loss is None:
            if step == 0 and (self.objective == LOSS or self._prunes):
                raise UserError(
                    "hydra/sweeper=optuna: the data have no held-out part, so that runs have no held-out loss: set "
                    "dataset.held_out, or hydra.sweeper.objective=sliced_w1 and hydra.sweeper.pruner=null"
                )
            return False
        if step not in self._reported:
            self._reported.add(step)
            # The pruner looks for good values in the direction of the objective.
            self._trial.report(-loss if good(self.objective) == HIGH else loss, step)
        return len(self._reported) > WARM_UP and self._trial.should_prune()

    def complete(self, folder: Path) -> None:
        """Tell the study the objective of the finished run in a folder, the mean over the replicas of the run."""
        from sdegen.reports import summary

        values = []
        for run in summary.finished([folder]):
            learning, metric = run.provenance.get("learning"), run.metrics.get(self.objective, {})
            found = learning.get(LOSS) if self.objective == LOSS and isinstance(learning, dict) else metric.get("value")
            if not isinstance(found, (int, float)):
                known = ", ".join([*run.metrics, LOSS])
                raise UserError(f"hydra.sweeper.objective={self.objective}: the run has no such metric: use {known}")
            values.append(float(found))
        if not values:
            raise UserError(f"{folder}: has no metrics that can be read: train it again")
        self._study.tell(self._trial.number, fmean(values), skip_if_finished=True)

    def note(self, folder: Path, command: str) -> None:
        """Store the folder and the command of the run in the study."""
        self._trial.set_user_attr("folder", str(folder))
        self._trial.set_user_attr("command", command)

    def prune(self) -> None:
        """Tell the study that the run ended early."""
        import optuna

        self._study.tell(self._trial.number, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)


def study(sweep: Path, objective: str, pruner: Pruner) -> optuna.Study:
    """Returns the study in the folder of a sweep, a new one if there is none."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds: dict[str, type[optuna.pruners.BasePruner]]
    kinds = {"median": optuna.pruners.MedianPruner, "halving": optuna.pruners.SuccessiveHalvingPruner}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))
        return optuna.create_study(
            study_name="search",
            storage=storage,
            load_if_exists=True,
            direction="maximize" if good(objective) == HIGH else "minimize",
            pruner=optuna.pruners.NopPruner() if pruner is None else kinds[pruner](),
        )
