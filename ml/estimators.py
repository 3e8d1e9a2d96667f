"""What `flowml train --estimator` can fit: one row of `ESTIMATORS` each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from threadpoolctl import threadpool_limits

from collector.progress import progress
from ml.dataset import Dataset

__all__ = ["DEFAULT", "ESTIMATORS", "GROWN", "fit"]

DEFAULT = "forest"

_STEPS = 20
_QUANTILES = 1000


def _forest(n_rows: int, trees: int, seed: int) -> Any:
    return RandomForestClassifier(n_estimators=trees, random_state=seed)


def _extra_trees(n_rows: int, trees: int, seed: int) -> Any:
    return ExtraTreesClassifier(n_estimators=trees, random_state=seed)


def _boosted(n_rows: int, trees: int, seed: int) -> Any:
    # With scikit-learn's defaults it diverges on these features: classes of few rows, heavy tails. Stopping
    # early would hold out rows at random, so that rows of one capture would be on both sides.
    return HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=0.1,
        l2_regularization=10.0,
        max_leaf_nodes=15,
        min_samples_leaf=5,
        early_stopping=False,
        random_state=seed,
    )


def _logistic(n_rows: int, trees: int, seed: int) -> Any:
    # Rates and times span many decades, so ranks rather than values; what is undefined is a mark of its own.
    return make_pipeline(
        QuantileTransformer(
            n_quantiles=min(_QUANTILES, n_rows), output_distribution="normal", random_state=seed
        ),
        SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True),
        LogisticRegression(C=10.0, max_iter=3000, random_state=seed),
    )


ESTIMATORS: dict[str, Callable[[int, int, int], Any]] = {
    "forest": _forest,
    "extra-trees": _extra_trees,
    "boosted": _boosted,
    "logistic": _logistic,
}
"""Name to what makes the unfitted estimator of (number of rows, trees, seed). Each takes NaN as it is."""

GROWN = ("forest", "extra-trees", "boosted")
"""Those that are made of trees: rounds of boosting, of which each grows a tree a class, in the last."""


def fit(
    dataset: Dataset,
    name: str = DEFAULT,
    *,
    trees: int = 100,
    seed: int = 0,
    jobs: int | None = None,
) -> Any:
    """Fits an estimator on all rows; its classes are class ids of the data set.

    What comes out depends on the data, the name, `trees` and `seed` alone.

    Parameters
    ----------
    name
        Of `ESTIMATORS`.
    trees
        How many, where it is made of trees.
    jobs
        How many processors are used; None: as many as there are.
    """
    estimator = ESTIMATORS[name](len(dataset), trees, seed)
    with warnings.catch_warnings(), threadpool_limits(limits=jobs):
        # Many classes of few rows each look to scikit-learn like numbers to be estimated.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        if isinstance(estimator, (RandomForestClassifier, ExtraTreesClassifier)):
            return _grown(estimator, dataset, jobs)
        with progress(f"fitting {name}", None, "models"):
            return estimator.fit(dataset.X, dataset.y)


def _grown(forest: Any, dataset: Dataset, jobs: int | None) -> Any:
    """Some trees at a time, to tell how far it is; the forest is the same as if grown at once."""
    trees = forest.n_estimators
    forest.set_params(warm_start=True, n_jobs=-1 if jobs is None else jobs)
    with progress("growing trees", trees, "trees") as advance:
        for grown, wanted in pairwise(trees * step // _STEPS for step in range(_STEPS + 1)):
            if wanted > grown:
                forest.set_params(n_estimators=wanted).fit(dataset.X, dataset.y)
                advance(wanted - grown)
    # How many CPUs it was trained on is nothing that the model file should carry to another machine.
    return forest.set_params(warm_start=False, n_jobs=1)
