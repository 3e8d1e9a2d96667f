"""What can be learned from real captures, by every model: the tables of docs/models.md.

    python -m tests.bench.learning DIR [MODEL...] [--seeds N]

DIR holds captures as `<device>/Setup-<person>-<repetition>....pcap`, with the device's own MAC in
`<device>/device-mac.txt`. Connections are those of `flowml extract --filter tcp`. Each table is Markdown.
With --seeds there is one table alone: how much of a score is the seed's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
from sklearn.model_selection import StratifiedGroupKFold

from ml import dataset, estimators
from ml.classifier import Classifier
from ml.dataset import Dataset
from ml.estimator import classifier_of
from ml.scores import confusion, intervals, scores
from tests.tool import FLOWML

LEAST = 20
"""Connections of a MAC, below which it is left out."""
FOLDS = 5
SEED = 0

FAMILIES = {
    "D-Link sensors and plug": ("D-LinkSensor", "D-LinkSiren", "D-LinkSwitch", "D-LinkWaterSensor"),
    "WeMo": ("WeMoLink", "WeMoSwitch", "WeMoSwitch2", "WeMoInsightSwitch", "WeMoInsightSwitch2"),
    "Edimax plugs": ("EdimaxPlug1101W", "EdimaxPlug2101W"),
    "TP-Link plugs": ("TP-LinkPlugHS100", "TP-LinkPlugHS110"),
}
"""Devices of one make and nearly one kind."""

Ids = npt.NDArray[np.intp]
Fit = Callable[[Dataset, int], Classifier]
"""Rows and a seed."""


def _estimator(name: str, data: Dataset, seed: int) -> Classifier:
    # On one processor: on a busy machine the threads of boosting wait for each other.
    return classifier_of(estimators.fit(data, name, seed=seed, jobs=1), name, data.classes, "labels")


def _transformer(data: Dataset, seed: int) -> Classifier:
    from ml.device import find
    from ml.hyperparameters import DEFAULTS
    from ml.transformer import classifier_of as transformer_of
    from ml.transformer_training import Schedule, fit

    device = find("auto")
    return transformer_of(
        fit(data, DEFAULTS, Schedule(seed=seed), device, lambda: None), data.classes, device
    )


MODELS: dict[str, Fit] = {
    **{name: partial(_estimator, name) for name in estimators.ESTIMATORS},
    # What is not of scikit-learn comes here: rows in, a `Classifier` out.
    "transformer": _transformer,
}


@dataclass(frozen=True, slots=True)
class Captures:
    """Rows, and what their captures' names say."""

    data: Dataset
    person: npt.NDArray[np.str_]
    """Who made the capture, shape (n_rows,)."""
    devices: dict[str, str]
    """MAC of a device to its name; two devices that share one have both names."""


def extracted(folder: Path) -> Captures:
    """Every connection of every capture in the folder."""
    paths = sorted(folder.glob("*/Setup-*.pcap"))
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.jsonl"
        subprocess.run(
            [FLOWML, "extract", *paths, "--filter", "tcp", "--outfile", rows],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        data = dataset.read([rows])
        names = [Path(orjson.loads(line)["capture"]).name for line in rows.read_bytes().splitlines()]
    devices: dict[str, str] = {}
    for path in sorted(folder.glob("*/device-mac.txt")):
        mac = path.read_text().strip().lower()
        devices[mac] = "/".join(filter(None, (devices.get(mac), path.parent.name)))
    return Captures(data, np.array([name.split("-")[1] for name in names]), devices)


def kept(data: Dataset, wanted: npt.NDArray[np.bool_]) -> Ids:
    """Rows of the wanted classes, shape (n_classes,) true or false."""
    return np.flatnonzero(wanted[data.y])


def compact(data: Dataset) -> Dataset:
    """With those classes only of which there are rows."""
    there, y = np.unique(data.y, return_inverse=True)
    return replace(data, y=y, classes=tuple(data.classes[i] for i in there))


def answers(fit: Fit, train: Dataset, test: Dataset, seed: int = SEED) -> Ids:
    """A model's answers to test rows, as class ids; it knows only the classes that it was shown."""
    classifier = fit(compact(train), seed)
    ids = np.array([test.classes.index(label) for label in classifier.labels])
    return ids[classifier.predict(test.X)[0]].astype(np.intp)


def splits(captures: Captures, rows: Ids) -> Iterator[tuple[str, list[tuple[Ids, Ids]]]]:
    """Name, and pairs of training and test rows."""
    person = captures.person[rows]
    for train, test in (("AB", "C"), ("C", "AB")):
        name = f"{'+'.join(train)} -> {'+'.join(test)}"
        yield name, [(rows[np.isin(person, list(train))], rows[np.isin(person, list(test))])]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    data = captures.data.subset(rows)
    yield f"{FOLDS} folds", [(rows[a], rows[b]) for a, b in folds.split(data.X, data.y, data.captures)]


def judged(captures: Captures, rows: Ids, fit: Fit, pairs: list[tuple[Ids, Ids]]) -> tuple[Ids, Ids]:
    """The test rows of all pairs, and the answers to them."""
    data = captures.data
    found = [answers(fit, data.subset(train), data.subset(test)) for train, test in pairs]
    return np.concatenate([test for _, test in pairs]), np.concatenate(found)


def cell(value: float, ends: list[float]) -> str:
    return f"{value:.3f} [{ends[0]:.3f} {ends[1]:.3f}]"


def table_of_scores(captures: Captures, sets: dict[str, Ids], models: dict[str, Fit]) -> Iterator[str]:
    """Model by split and set of labels."""
    yield "| labels | split | model | accuracy | macro F1 | majority | rows trained on, tested |"
    yield "|---|---|---|---|---|---|---|"
    data = captures.data
    for which, rows in sets.items():
        for split, pairs in splits(captures, rows):
            for name, fit in models.items():
                tested, found = judged(captures, rows, fit, pairs)
                truth = data.y[tested]
                got = scores(truth, found)
                ends = intervals(truth, found, data.captures[tested])
                assert ends is not None
                dull = np.concatenate(
                    [data.y[test] == np.argmax(np.bincount(data.y[train])) for train, test in pairs]
                )
                trained = len(pairs[0][0]) if len(pairs) == 1 else len(tested)
                yield (
                    f"| {which} | {split} | {name} | {cell(got['accuracy'] or 0, ends['accuracy'])} | "
                    f"{cell(got['macro_f1'] or 0, ends['macro_f1'])} | {dull.mean():.3f} | "
                    f"{trained}, {len(tested)} |"
                )


def table_of_seeds(
    captures: Captures, sets: dict[str, Ids], models: dict[str, Fit], seeds: int
) -> Iterator[str]:
    """Mean and standard deviation over seeds, tested on captures of another person."""
    yield f"| labels | split | model | accuracy, {seeds} seeds | macro F1 |"
    yield "|---|---|---|---|---|"
    data = captures.data
    for which, rows in sets.items():
        for split, pairs in splits(captures, rows):
            if len(pairs) > 1:
                continue
            ((train, test),) = pairs
            for name, fit in models.items():
                found = [
                    scores(data.y[test], answers(fit, data.subset(train), data.subset(test), seed))
                    for seed in range(seeds)
                ]
                cells = []
                for score in ("accuracy", "macro_f1"):
                    values = [one[score] or 0 for one in found]
                    cells.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
                yield f"| {which} | {split} | {name} | {' | '.join(cells)} |"


def table_of_families(captures: Captures, rows: Ids, fit: Fit) -> Iterator[str]:
    """What is left to be wrong when each family is one label."""
    data = captures.data
    family = np.arange(len(data.classes))
    for members in FAMILIES.values():
        ids = [i for i, mac in enumerate(data.classes) if captures.devices.get(mac) in members]
        family[ids] = min(ids)
    yield "| split | accuracy | with each family as one label |"
    yield "|---|---|---|"
    for split, pairs in splits(captures, rows):
        tested, found = judged(captures, rows, fit, pairs)
        cells = []
        for truth, answer in ((data.y[tested], found), (family[data.y[tested]], family[found])):
            ends = intervals(truth, answer, data.captures[tested])
            assert ends is not None
            cells.append(cell(float(np.mean(truth == answer)), ends["accuracy"]))
        yield f"| {split} | {' | '.join(cells)} |"


def table_of_confusions(captures: Captures, rows: Ids, fit: Fit) -> Iterator[str]:
    """The commonest wrong answers over the folds."""
    data = captures.data
    *_, (_, pairs) = splits(captures, rows)
    tested, found = judged(captures, rows, fit, pairs)
    matrix = confusion(data.y[tested], found, len(data.classes))
    wrong = matrix - np.diag(matrix.diagonal())
    name = [captures.devices.get(mac, mac) for mac in data.classes]
    yield "| device | answered with | connections | of |"
    yield "|---|---|---|---|"
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:12]:
        i, j = divmod(int(flat), len(name))
        yield f"| {name[i]} | {name[j]} | {wrong[i, j]} | {matrix[i].sum()} |"


def table_of_pairs(captures: Captures, fit: Fit) -> Iterator[str]:
    """Two devices of a family at a time: can a model that has to know nothing else tell them apart?"""
    data = captures.data
    mac_of = {name: mac for mac, name in captures.devices.items()}
    yield "| one | the other | balanced accuracy | connections | captures |"
    yield "|---|---|---|---|---|"
    for members in FAMILIES.values():
        for pair in combinations(members, 2):
            ids = [data.classes.index(mac_of[name]) for name in pair if mac_of[name] in data.classes]
            rows = np.flatnonzero(np.isin(data.y, ids))
            counts = [len(np.unique(data.captures[data.y == i])) for i in ids]
            if len(ids) < 2 or min(counts) < FOLDS:
                continue
            *_, (_, pairs) = splits(captures, rows)
            tested, found = judged(captures, rows, fit, pairs)
            truth, group = data.y[tested], data.captures[tested]
            ends = intervals(truth, found, group)
            assert ends is not None
            got = cell(scores(truth, found)["balanced_accuracy"] or 0, ends["balanced_accuracy"])
            sizes = ", ".join(str(int((data.y == i).sum())) for i in ids)
            yield f"| {pair[0]} | {pair[1]} | {got} | {sizes} | {', '.join(map(str, counts))} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="*")
    parser.add_argument("--seeds", type=int, metavar="N")
    asked = parser.parse_args()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    captures = extracted(asked.folder)
    models = {name: fit for name, fit in MODELS.items() if name in (asked.model or MODELS)}
    data = captures.data
    many = data.counts() >= LEAST
    device = np.array([mac in captures.devices for mac in data.classes])
    sets = {"all MACs": kept(data, many), "devices": kept(data, many & device)}
    default = MODELS[estimators.DEFAULT]
    tables = [
        ("Scores", table_of_scores(captures, sets, models)),
        (f"Families, {estimators.DEFAULT}, devices", table_of_families(captures, sets["devices"], default)),
        (f"Wrong answers, {estimators.DEFAULT}", table_of_confusions(captures, sets["devices"], default)),
        (f"Pairs, {estimators.DEFAULT}", table_of_pairs(captures, default)),
    ]
    if asked.seeds is not None:
        tables = [("Seeds", table_of_seeds(captures, sets, models, asked.seeds))]
    for title, lines in tables:
        print(f"\n{title}\n")
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
