"""The dashboard, the alert rules and the reference agree with the metrics that there are."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from whisperx_api_server.jobs.admission import AdmissionControl
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings
from whisperx_api_server.telemetry.metrics import Metrics
from whisperx_api_server.telemetry.state import ServerState

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "whisperx.json"
NAME = re.compile(r"whisperx_\w+")
OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture(scope="module")
def types() -> dict[str, str]:
    """The type of each metric of ours by its name."""

    async def read() -> str:
        metrics = Metrics()
        state = ServerState(
            pool=ModelPool(PoolSettings(), SchedulerSettings()),
            admission=AdmissionControl(1.0),
            active=int,
            live_sessions=int,
            workers=int,
        )
        with metrics.reading(state):
            return metrics.text().decode()

    lines = (line.split() for line in asyncio.run(read()).splitlines())
    declared = {line[2]: line[3] for line in lines if line[:2] == ["#", "TYPE"]}
    return {
        name: kind
        for name, kind in declared.items()
        if name.startswith("whisperx_") and not name.endswith("_created")
    }


def expressions() -> dict[str, str]:
    """Each expression of the dashboard and the rules by its title."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", [])
    }
    return found | {"alerts.yml": (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8")}


def test_the_dashboard_and_the_rules_read_metrics_that_exist(types: dict[str, str]) -> None:
    for title, expression in expressions().items():
        for name in NAME.findall(expression):
            base = OF_HISTOGRAM.sub("", name)
            is_histogram = types.get(base) == "histogram" and base != name
            assert is_histogram or types.get(name) in ("counter", "gauge"), f"{title}: {name}"


def test_the_reference_has_each_metric_and_no_other(types: dict[str, str]) -> None:
    page = (ROOT / "docs" / "observe.md").read_text(encoding="utf-8")
    section = page.partition("## Metrics")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    documented = {f"whisperx_{name}" for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert documented == set(types)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_configuration(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")

    checked = subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtool_understands_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    rules = [
        {"record": f"panel:{place}", "expr": expression.replace("$__rate_interval", "1m")}
        for place, (title, expression) in enumerate(expressions().items())
        if title != "alerts.yml"
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))

    checked = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr
