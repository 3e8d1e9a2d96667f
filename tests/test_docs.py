"""The documents say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from collector import config, features, records
from collector.config import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()


def test_the_feature_table_is_the_catalogue() -> None:
    """`python -m collector.features`, between the marks."""
    found = re.search(r"<!-- python -m collector.features -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert found is not None
    assert found[1] == features.table()


def test_every_fate_of_a_packet_is_explained() -> None:
    """The design names each, and flow.h says what each means."""
    header = (ROOT / "bpf" / "flow.h").read_text()
    for fate in (*records.FATES, *records.EVENTS):
        assert f"`{fate}`" in DESIGN
        assert re.search(rf"X\({fate}\)\s*/\* .+ \*/", header)


def test_files_and_modules_that_are_named_exist() -> None:
    """Every path in backquotes or behind a link."""
    for text in (README, DESIGN, RELIABILITY, (ROOT / "CONTRIBUTING.md").read_text()):
        for path in re.findall(r"`((?:bpf|collector|ml|configs|tests|docs)/[\w./]*)`", text):
            assert (ROOT / path).exists(), path
        for path in re.findall(r"\]\(([\w./]+)\)", text):
            assert (ROOT / path).exists(), path
        for module in re.findall(r"python -m ([\w.]+)", text):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists() or module == "pytest", module


def test_what_operations_names_exists() -> None:
    """Links, modules, options, metrics, and the alert thresholds' metrics."""
    for path in re.findall(r"\]\(([\w./-]+)\)", OPERATIONS):
        assert (ROOT / "docs" / path).exists(), path
    for path in re.findall(r"`((?:collector|packaging|tests)/[\w./]*)`", OPERATIONS):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"/opt/flowml/(packaging/[\w./]*)", OPERATIONS):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", OPERATIONS):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    manual = (ROOT / "packaging" / "flowml.1").read_text().replace("\\-", "-")
    others = {"--now"}
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", OPERATIONS)) - others:
        assert option in manual, option
    source = (ROOT / "collector" / "metrics.py").read_text()
    for metric in re.findall(r"flowml_\w+?(?=_total|_info|`)", OPERATIONS):
        assert f'"{metric}"' in source, metric


def test_the_service_s_settings_can_be_read() -> None:
    """packaging/flowml.toml, as the unit names it."""
    with (ROOT / "packaging" / "flowml.toml").open("rb") as file:
        assert set(config.read(file, "flowml.toml")) == {"outfile", "format", "metrics", "model"}


def test_every_fault_is_shown_by_a_test_that_exists() -> None:
    """Each row of the tables in docs/reliability.md names one or more; and each that it names is there."""
    rows = [line for line in RELIABILITY.splitlines() if line.startswith("|") and not line.startswith("|---")]
    for row in rows:
        assert "`tests/" in row or row == "| fault | what happens | shown by |", row
    for path, name in re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", RELIABILITY):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_every_option_with_a_flag_is_in_the_help() -> None:
    """Each option but the sizes of buffers and the sweep's pace, which are for the file."""
    shown = subprocess.run(
        [Path(sys.executable).with_name("flowml"), "attach", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in OPTIONS:
        if option.section == "conntrack" and option.name != "max_connections":
            continue
        if option.name not in ("ring_bytes", "backlog_bytes"):
            assert f"--{option.name.replace('_', '-')}" in shown
