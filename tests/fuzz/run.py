"""Builds the fuzz targets and runs them.

`python -m tests.fuzz.run MINUTES` runs both at a time, on the processors that there are; what makes one fail
is left in tests/fuzz/findings. `python -m tests.fuzz.run merge` puts what earlier runs came by into the kept
corpus, as far as it reaches anything new: in zip files, for it is many and tiny.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from collector.progress import progress
from tests.fuzz import seeds

__all__ = ["ROOT", "TARGETS", "arguments", "build", "unpack"]

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path("tests/fuzz")
KEPT = ROOT / HERE / "corpus"
FINDINGS = ROOT / HERE / "findings"
WORK = ROOT / ".cache/fuzz"

TARGETS = {
    "packets": ["packets.c", "mutator.c", "../../bpf/narrow.c"],
    "files": ["files.c", "../../bpf/narrow.c"],
}
"""What each is built from."""

LONGEST = {"packets": 2048, "files": 8192}
"""Bytes of an input: enough for any case there is, and few enough to be fast."""

UNHARMED = (0, 72, -signal.SIGTERM)
"""Exit codes of a run to its end, or until it was told to end."""

COMPILER = [
    *("clang", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Wno-unused-function"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
]
LIBRARIES = ["-lpcap", "-lz", "-lzstd"]


def build(target: str, folder: Path, root: Path = ROOT) -> Path:
    """The target, built in a folder from the sources below `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / target
    sources = [str(root / HERE / name) for name in TARGETS[target]]
    subprocess.run([*COMPILER, *sources, "-o", str(program), *LIBRARIES], check=True)
    return program


def unpack(folder: Path) -> None:
    """The kept corpus and the seeds, below `folder`: a folder a target."""
    seeds.write(folder)
    for target in TARGETS:
        with contextlib.suppress(FileNotFoundError), zipfile.ZipFile(KEPT / f"{target}.zip") as kept:
            kept.extractall(folder / target)


def arguments(target: str) -> list[str]:
    """What libFuzzer is to know of a target."""
    words = ROOT / HERE / f"{target}.dict"
    return [f"-max_len={LONGEST[target]}", *([f"-dict={words}"] if words.exists() else [])]


def fuzz(minutes: float) -> bool:
    """Runs every target for so long; whether nothing was found."""
    unpack(WORK / "kept")
    FINDINGS.mkdir(exist_ok=True)
    processors = len(os.sched_getaffinity(0))
    running = {}
    for target in TARGETS:
        program = build(target, WORK)
        grown = WORK / "corpus" / target
        grown.mkdir(parents=True, exist_ok=True)
        command = [str(program), *arguments(target), f"-max_total_time={round(60 * minutes)}"]
        command += [f"-artifact_prefix={FINDINGS / target}-", "-print_final_stats=1"]
        if processors > len(TARGETS):
            command.append(f"-fork={processors // len(TARGETS)}")
        command += [str(grown), str(WORK / "kept" / target)]
        with program.with_suffix(".log").open("wb") as log:
            running[target] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=WORK)
    try:
        _wait(list(running.values()), 60 * minutes)
    finally:
        for process in running.values():
            process.terminate()
    clean = [_report(target, process.wait()) for target, process in running.items()]  # each of them
    return all(clean)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all are done, or one has failed."""
    last = time.monotonic()
    with progress("fuzz", round(seconds), unit="seconds") as advance:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                return
            time.sleep(1)
            advance(round(time.monotonic()) - round(last))
            last = time.monotonic()


def _report(target: str, code: int) -> bool:
    text = (WORK / f"{target}.log").read_text(errors="replace")
    found = re.search(r"Test unit written to (\S+)", text)
    if found:
        why = re.search(r"not so: .*|runtime error: .*|SUMMARY: .*", text)
        program, unit = (Path(one).relative_to(ROOT) for one in (WORK / target, found[1]))
        print(f"fuzz: {target}: {why[0] if why else 'it failed'}. To see it again: {program} {unit}")
        return False
    if code not in UNHARMED:
        print(f"fuzz: {target}: it ended with exit code {code}: see {WORK / target}.log")
        return False
    runs = re.findall(r"^#(\d+)", text, re.MULTILINE)
    print(f"fuzz: {target}: nothing found in {runs[-1] if runs else 0} inputs")
    return True


def merge() -> None:
    """Kept is afterwards what reaches all that was ever reached, the shortest first."""
    unpack(WORK / "kept")
    KEPT.mkdir(exist_ok=True)
    for target in TARGETS:
        program = build(target, WORK)
        least = WORK / "least" / target
        shutil.rmtree(least, ignore_errors=True)
        least.mkdir(parents=True)
        grown = WORK / "corpus" / target
        grown.mkdir(parents=True, exist_ok=True)
        folders = [str(one) for one in (least, WORK / "kept" / target, grown)]
        command = [str(program), *arguments(target), "-merge=1", *folders]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        with zipfile.ZipFile(KEPT / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as kept:
            for file in sorted(least.iterdir()):  # under its name, at no time: the same each time
                kept.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED)
        print(f"fuzz: {target}: {len(list(least.iterdir()))} inputs are kept")


if __name__ == "__main__":
    if sys.argv[1:] == ["merge"]:
        merge()
    else:
        sys.exit(0 if fuzz(float(sys.argv[1])) else 1)
