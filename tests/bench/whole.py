"""From a finished flow in the ring to its line in a file: how many a second, and where the time goes.

python -m tests.bench.whole [--rounds N] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from collector.features import NAMES, matrix
from collector.formatter import Formatter, ask
from collector.lines import Origin, label_lines, record_lines
from collector.sink import open_sink
from ml.classifier import Answers, Classifier
from ml.model import open_model
from tests.bench.rounds import Found, aim, in_turns, on_core, ratios, run, spread, table
from tests.bench.samples import Feeder, forest, rows

TITLE = "The whole way, from the ring to the file"
HOW = """\
Real flows lie in the ring, so many at a time; the collector's own steps take them to lines of JSON in a
file, on one core: read the ring, make the matrix, ask a forest of 100 trees, make the lines, write.
*label* is what `attach` writes by default, *record* has the connection, *with features* the 17 numbers
too. Beside it, in turns, scikit-learn answers in the forest's place, and `json.dumps` writes the records."""

BATCHES = (100, 1000, 10_000)
TURN = 20_000
"""Connections in a turn."""
RING, MATRIX, ASKED, LINES, WRITE = "ring", "matrix", "forest", "lines", "write"

FOREST, SKLEARN = "forest, label", "scikit-learn's predict, label"
RECORD, NO_CLASSIFIER = "forest, record with features", "no classifier, record with features"
PLAIN, DUMPS = "no classifier, record", "no classifier, record with features by json.dumps"
WITHOUT_PREDICT = "label, the classifier left out"

AIMS = ((FOREST, 150_000), (NO_CLASSIFIER, 500_000), (PLAIN, 500_000), (WITHOUT_PREDICT, 500_000))
"""Connections a second."""

Matrix = npt.NDArray[np.float64]


class SkLearn:
    """The same forest, asked as its users ask it."""

    def __init__(self, model: Path, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._forest = joblib.load(model).set_params(n_jobs=1)

    def predict(self, X: Matrix) -> Answers:
        probabilities = self._forest.predict_proba(X)
        classes = probabilities.argmax(axis=1)
        return classes, probabilities[np.arange(len(X)), classes]


class Constant:
    """No classifier at all, but its answers: what everything else costs."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    def predict(self, X: Matrix) -> Answers:
        return np.zeros(len(X), np.intp), np.ones(len(X))


class Way:
    """Batch by batch from the feeder's ring into a file."""

    def __init__(self, feeder: Feeder, outfile: Path) -> None:
        self.feeder = feeder
        self.outfile = outfile

    def per_second(self, lines: Callable[[npt.NDArray[np.void]], bytes], batch: int) -> float:
        """Connections a second; filling the ring does not count."""
        sink = open_sink(str(self.outfile))
        took = 0.0
        for _ in range(TURN // batch):
            self.feeder.feed(batch)
            begin = time.perf_counter()
            sink.write(lines(self.feeder.ring.read()), batch)
            took += time.perf_counter() - begin
        sink.close()
        self._check()
        return TURN / took

    def steps(self, chain: dict[str, Callable[[Any], Any]], batch: int) -> dict[str, float]:
        """Microseconds a connection of each step, whose result the next one takes."""
        sink = open_sink(str(self.outfile))
        took = dict.fromkeys((RING, *chain, WRITE), 0.0)
        every: dict[str, Callable[[Any], Any]] = {
            RING: lambda _: self.feeder.ring.read(),
            **chain,
            WRITE: lambda text: sink.write(text, batch),
        }
        for _ in range(TURN // batch):
            self.feeder.feed(batch)
            value: Any = None
            for step, do in every.items():
                begin = time.perf_counter()
                value = do(value)
                took[step] += time.perf_counter() - begin
        sink.close()
        self._check()
        return {step: 1e6 * value / TURN for step, value in took.items()}

    def _check(self) -> None:
        assert self.outfile.read_bytes().count(b"\n") == TURN
        self.outfile.unlink()


def dumped(found: npt.NDArray[np.void], origin: Origin) -> bytes:
    """Records as a collector in plain Python would write them."""
    texts = []
    for row, values in zip(found, matrix(found).tolist(), strict=True):
        record = {
            "iface": origin.iface,
            "s_mac": bytes(row["source_mac"]).hex(":"),
            "reason": int(row["reason"]),
        }
        record |= {name: None if value != value else value for name, value in zip(NAMES, values, strict=True)}
        texts.append(json.dumps(record) + "\n")
    return "".join(texts).encode()


def chains(classifier: Classifier, origin: Origin) -> dict[str, dict[str, Callable[[Any], Any]]]:
    """The steps of two ways, between the ring and the file."""
    return {
        FOREST: {
            MATRIX: matrix,
            ASKED: lambda X: ask(classifier, X, list),
            LINES: label_lines,
        },
        NO_CLASSIFIER: {
            MATRIX: lambda read: (read, matrix(read)),
            LINES: lambda both: record_lines(both[0], origin, matrix=both[1]),
        },
    }


def rounds_of(each: list[dict[str, float]]) -> dict[str, list[float]]:
    return {step: [one[step] for one in each] for step in each[0]}


def measure(rounds: int) -> Found:
    """Connections a second, by batch and way; microseconds of each step."""
    feeder = Feeder(rows(max(BATCHES)))
    origin = Origin(0, iface="eth0")
    per_second: Found = {}
    steps: Found = {}
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as name, on_core(-1):
        model = forest(Path(name))
        classifier = open_model(model).load()
        asked: dict[str, tuple[Classifier | None, bool, bool]] = {
            FOREST: (classifier, False, False),
            SKLEARN: (SkLearn(model, classifier.labels), False, False),
            RECORD: (classifier, True, True),
            NO_CLASSIFIER: (None, True, True),
            PLAIN: (None, True, False),
            WITHOUT_PREDICT: (Constant(classifier.labels), False, False),
        }
        way = Way(feeder, Path(name) / "lines.jsonl")
        for batch in BATCHES:
            turns: dict[str, Callable[[], float]] = {}
            for title, (answering, as_record, with_features) in asked.items():
                formatter = Formatter(answering, as_record=as_record, with_features=with_features)
                turns[title] = partial(way.per_second, partial(formatter.lines, origin=origin), batch)
            turns[DUMPS] = partial(way.per_second, partial(dumped, origin=origin), batch)
            per_second[str(batch)] = in_turns(turns, rounds)
            steps[str(batch)] = {
                title: rounds_of([way.steps(chain, batch) for _ in range(rounds)])
                for title, chain in chains(classifier, origin).items()
            }
    feeder.close()
    return {"per_second": per_second, "steps": steps, "aims": aims(per_second, steps)}


def aims(per_second: Found, steps: Found) -> list[Found]:
    def best(way: str) -> tuple[int, float]:
        return max(
            ((int(batch), statistics.median(cell[way])) for batch, cell in per_second.items()),
            key=lambda one: one[1],
        )

    found = []
    for way, least in AIMS:
        batch, value = best(way)
        found.append(
            aim(
                f"{way}: connections a second on one core",
                f"at least {least:,}",
                f"{value:,.0f}, {batch:,} at a time",
                reached=value >= least,
            )
        )
    rest = {
        int(batch): sum(statistics.median(values) for step, values in cell[FOREST].items() if step != ASKED)
        for batch, cell in steps.items()
    }
    found.append(
        aim(
            "a connection's way to its label's line, without the forest",
            "less than 1 us",
            "; ".join(f"{value:.2f} us, {batch:,} at a time" for batch, value in rest.items()),
            reached=rest[max(rest)] < 1,
        )
    )
    return found


def markdown(found: Found) -> str:
    per_second, steps = found["per_second"], found["steps"]
    names = list(next(iter(per_second.values())))
    batches = list(per_second)
    at_a_time = [f"{int(batch):,} at a time" for batch in batches]
    text = table(
        ["thousand connections/s", *at_a_time],
        [
            [name, *(spread([value / 1e3 for value in per_second[batch][name]], 0) for batch in batches)]
            for name in names
        ],
    )
    text += "\n" + table(
        ["ratio", *at_a_time],
        [
            [
                f"{ours}, of {other}",
                *(spread(ratios(per_second[b][ours], per_second[b][other]), 1) for b in batches),
            ]
            for ours, other in ((FOREST, SKLEARN), (NO_CLASSIFIER, DUMPS))
        ],
    )
    for way in steps[batches[0]]:
        text += "\n" + table(
            [f"us a connection, {way}", *at_a_time],
            [
                [step, *(spread(steps[batch][way][step]) for batch in batches)]
                for step in steps[batches[0]][way]
            ],
        )
    return text


if __name__ == "__main__":
    run(measure, markdown)
