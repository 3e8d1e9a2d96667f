"""A forest of real captures, for the benchmarks.

    python -m tests.bench.forest MODEL.joblib

Every connection in every capture of the folder that FLOWML_TRACES names goes through the kernel.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from collector.features import matrix
from collector.lines import Origin, record_lines
from ml.train import train
from tests.conftest import captures
from tests.oracle import read_pcap
from tests.replay import Replay


def training_lines() -> list[bytes]:
    """A record for each connection of each capture, with the capture's name to split by."""
    lines = []
    with Replay() as replay:
        for path in captures():
            replay.restart()
            rows = replay.run(read_pcap(path))
            lines.append(record_lines(rows, Origin(0, capture=str(path)), matrix=matrix(rows)))
    return lines


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.jsonl"
        data.write_bytes(b"".join(training_lines()))
        train(
            [data],
            Path(sys.argv[1]),
            trees=100,
            seed=0,
            jobs=None,
            skip_bad=False,
            say=lambda line: print(line, file=sys.stderr),
        )


if __name__ == "__main__":
    main()
