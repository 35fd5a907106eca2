"""Every metric says in words what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import sdegen
from sdegen import metrics
from sdegen.datasets import Digits, Mixture


def measured() -> set[str]:
    """The names in the source that stand before an entry, and those of the metrics of points and of images."""
    names: set[str] = set()
    for path in Path(sdegen.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    inner = {ast.unparse(k) for k in value.keys if k} if isinstance(value, ast.Dict) else set()
                    if isinstance(key, ast.Constant) and {"'value'", "'floor'"} <= inner:
                        names.add(str(key.value))
    digits = Digits()
    x, features = digits.x[:300], metrics.Features(digits.units.shape, 10).eval()
    assert digits.y is not None
    names |= metrics.measure_images(digits, x, features).keys()
    names |= metrics.measure_conditional(digits, x, digits.y[:300], features).keys()
    two = Mixture(0, means=((0.0, 0.0), (3.0, 1.0)), variances=(1.0, 1.0))
    return names | metrics.measure_points(two, two.x).keys() | metrics.measure_points(Mixture(0), Mixture(0).x).keys()


def test_every_metric_has_a_sentence() -> None:
    found = measured()
    assert {"residual", "c2st", "frechet", "column_w1", "agreement"} <= found
    for name in found | {"score_error", "nll", "bits_per_dim", "accuracy", "accuracy_clean"}:
        assert metrics.described(name), name
    assert metrics.described("column_w1 (income per year)") == metrics.described("column_w1")
    assert metrics.described("unknown") == ""
    assert metrics.described("c2st") == (
        "accuracy with which a random forest tells samples from unseen data, cross-validated; unit: share, between 0.5 "
        "(guessing) and 1; smaller is better; the floor is the value for exact draws or training data in the place of "
        "samples"
    )
