"""`make bench`: every benchmark that needs nothing but captures, one after the other.

Each prints ratios against others that ran in turns with it, with their spread.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import captures
from tests.tool import FLOWML


def main() -> None:
    paths = captures()
    if not paths:
        raise SystemExit("set FLOWML_TRACES to a folder of captures")
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as name:
        rows, model = Path(name) / "rows.jsonl", Path(name) / "forest.joblib"
        _run(FLOWML, "extract", *paths, "--filter", "tcp", "--outfile", rows)
        _run(FLOWML, "train", rows, model)
        print("\nAnswers: python -m tests.bench.engines MODEL ROWS\n", flush=True)
        _run(sys.executable, "-m", "tests.bench.engines", model, rows)
    print("\nCaptures: python -m tests.bench.peers\n", flush=True)
    _run(sys.executable, "-m", "tests.bench.peers")


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True)


if __name__ == "__main__":
    main()
