"""Metrics of samples, chosen by the kind of data: points, or images and signals."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from sdegen import metrics
from sdegen.core.errors import UserError
from sdegen.core.progress import announced
from sdegen.datasets import Dataset
from sdegen.flow.density import check_density
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import dequantized
from sdegen.metrics.features import Features
from sdegen.metrics.floors import Floors
from sdegen.metrics.labels import feature_classes
from sdegen.metrics.points import Metrics, averaged_over_classes
from sdegen.runs import files, floors
from sdegen.runs.steered import Steered
from sdegen.runs.trained import Trained
from sdegen.runs.unseen import shuffled, training, unseen

log = logging.getLogger("sdegen")

JUDGED = 1000
"""Largest number of points over which the log-density is averaged."""


def measure(run: Trained, x: Tensor, y: Tensor | None, *, shares: bool = False) -> Metrics:
    """Returns the metrics of points, images or signals with their floors; empty if nothing can be measured.

    ``x`` is ``(N, *)`` in the user's units, on the CPU. ``y`` is ``(N,)``, the classes of guided samples, or None. The
    points of a class are compared with the data of this class. If ``shares`` is true, the classes have the shares of
    the data, and all points are compared with all data, too. The floors, and the classifier that computes the features
    of images and signals, are kept: see :mod:`sdegen.runs.floors`.
    """
    with floors.kept(run) as known, announced(f"measuring {len(x)} samples, and the floors"):
        return _measured(run, x, y, known, shares)


def measure_theirs(run: Trained, x: Tensor, y: Tensor | None) -> Metrics:
    """Returns the metrics of points that a user gives, as :func:`measure` does, and the balance of their labels.

    The number of samples of each class that a run draws is the user's choice, but that of another program's is not.
    """
    found = measure(run, x, y)
    if y is not None and (own := run.dataset.y) is not None and run.dataset.units.kind == "vectors":
        with floors.kept(run) as known:
            found["class_balance"] = metrics.class_balance(run.dataset, y, lambda: own, known)
    return found


def measure_given(run: Trained, x: Tensor, c: Tensor) -> Metrics:
    """Returns the metrics of samples ``x`` ``(N, *)`` with the conditions ``c`` ``(N, *)``, in the user's units.

    The samples of each condition are compared with exact draws given the condition. The metrics are means over the
    conditions; empty if exact draws are not known.
    """
    rows, index = c.unique(dim=0, return_inverse=True)
    found = {}
    for i, row in enumerate(rows):
        if (given := run.dataset.given(row)) is None:
            return {}
        found[i] = metrics.measure_points(given, x[index == i])
    return averaged_over_classes(found, "condition")


def _measured(run: Trained, x: Tensor, y: Tensor | None, known: Floors, shares: bool) -> Metrics:
    dataset = run.dataset
    if dataset.units.kind == "vectors":
        if y is None or dataset.y is None:
            return metrics.measure_points(dataset, x, floors=known)
        own = metrics.measure_labelled_points(dataset, x, y, known)
        if not shares or not own:
            return own
        distance = own["w1" if "w1" in own else "sliced_w1"]
        return {**metrics.measure_points(dataset, x, floors=known), "class_w1": distance}
    # Compare images with held-out images, because the classes of fresh images are not known.
    if len(x) < 2 or dataset.held_out is None:
        return {}
    (features, of_features), whole = _features(run, known), {}
    if y is None or dataset.y is None or len(y.unique()) == dataset.classes:
        if dataset.units.kind == "signals":
            whole = metrics.measure_signals(dataset, x, known)
        whole |= metrics.measure_images(dataset, x, features, of_features)
        whole |= metrics.measure_c2st_images(dataset, x, features, known, of_features)
    if y is None or dataset.y is None:
        return whole
    return {**whole, **metrics.measure_conditional(dataset, x, y, features, of_features)}


def score_error(run: Trained, y: Tensor | None) -> Metrics:
    """Returns the error of a run's score, as :func:`error_of_scores` does. It is computed once for each class."""

    def error(data: Dataset, label: int | None) -> float | None:
        return run.once(("score error", label), lambda: metrics.score_error(data, run.sde, run.score_on_cpu(label)))

    return error_of_scores(run.dataset, y, error)


def error_of_scores(
    dataset: Dataset, y: Tensor | None, error: Callable[[Dataset, int | None], float | None]
) -> Metrics:
    """Returns the error of a score, or the mean error of the scores of classes; empty if it is not known.

    Args:
        dataset: data of all classes.
        y: classes, ``(N,)``; None for the score without a class.
        error: function of the data of a class and of the class, which returns the error of its score. For the score
            without a class, the arguments are all data and None.
    """

    def entry(label: int | None) -> Metrics:
        value = error(dataset if label is None else dataset.of_class(label), label)
        found = {"value": value, "floor": 0.0, "train": None, "floor_from": "exact score"}
        return {} if value is None else {"score_error": found}

    if y is None or dataset.law is None:
        return entry(None)
    return averaged_over_classes({label: entry(label) for label in y.unique().tolist()})


def tell(run: Trained, x: Tensor, label: int | None = None) -> Metrics:
    """Returns the accuracy with which a classifier tells ``x`` from unseen data; see :func:`sdegen.metrics.c2st`.

    Images and signals are told apart by their pixels and by their features. The data are those of the class ``label``,
    or all with None; the result is empty if none of them are unseen, or fewer than
    :data:`sdegen.metrics.two_sample.FEWEST`.
    """
    dataset = run.dataset if label is None else run.dataset.of_class(label)
    with floors.kept(run) as known, announced(f"telling {len(x)} samples from unseen data"):
        known = known if label is None else known.part(f"class {label}")
        if dataset.units.kind == "vectors":
            points = dataset.rounded(x.detach().double().cpu())
            return metrics.measure_c2st(dataset, points, dataset.units.encode, known)
        if dataset.held_out is None:
            return {}
        features, of_features = _features(run, known)
        return metrics.measure_c2st_images(dataset, x, features, known, of_features)


def likelihood(run: Steered, x: Tensor, seed: int) -> Metrics:
    """Returns the mean negative log-density of a model at points, at unseen data (the floor) and at training points.

    All points are ``(N, *)`` in the user's units, and of the class that the run is given. The seed fixes the fresh
    points, the dequantisation, and the choice of :data:`JUDGED` points from a larger set. The result is empty for
    images and signals, and without a density.
    """
    dataset = run.dataset if run.target.label is None else run.dataset.of_class(run.target.label)
    try:
        check_density(dataset)
    except UserError:
        return {}
    if run.units.kind != "vectors":
        return {}
    other, flow, exact = unseen(dataset, JUDGED, seed), run.flow(), by_probes(0, run.units.size)
    sets = {"value": shuffled(x, seed)[:JUDGED], "floor": other.x, "train": training(dataset, JUDGED, seed).x}
    spread = {name: spread_over_cells(dataset, part.double(), seed) for name, part in sets.items()}
    means = {name: -float(flow.log_prob(part, exact, seed).log_p.mean()) for name, part in spread.items()}
    return {"nll": {**means, "floor_from": f"{other.kind} points"}}


def spread_over_cells(dataset: Dataset, x: Tensor, seed: int) -> Tensor:
    """Returns points with uniform noise added to quantised values, each within its cell."""
    cells = torch.ones(()) if dataset.levels is not None else dataset.cells
    return x if cells is None else x + cells * dequantized(torch.zeros_like(x), seed)


def _features(run: Trained, known: Floors) -> tuple[Features, Floors]:
    """Returns the classifier that is kept for the data, and the floors with its features; trains it if none is kept."""
    path, dataset = floors.folder(run) / "features.pt", run.dataset
    features = Features(dataset.units.shape, feature_classes(dataset))
    try:
        features.load_state_dict(files.stored(path))  # type: ignore[arg-type]
    except (UserError, RuntimeError, TypeError, AttributeError):
        log.info(f"training the classifier that gives the features of {dataset.units.kind}")
        features = metrics.fit_features(dataset)
        state = features.state_dict()
        floors.keep(path, lambda temporary: torch.save(state, temporary))
    digest = hashlib.blake2b(digest_size=8)
    for value in features.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return features.eval(), known.part(f"features {digest.hexdigest()}")
