"""The alerts fire when they should and not otherwise, and each says what to do. Without Prometheus they skip, and CI fails."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
RULES = ROOT / "docker" / "prometheus"
CASES = ROOT / "tests" / "alerts" / "alerts.yml"
ALERTS: list[dict[str, Any]] = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"][0]["rules"]


def promtool(*arguments: object) -> None:
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI"):
            raise AssertionError("promtool is missing: install Debian's package prometheus")
        pytest.skip("no promtool here: it is in Debian's package prometheus")
    found = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_prometheus_accepts_its_configuration_and_rules() -> None:
    promtool("check", "config", RULES / "prometheus.yml")


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", CASES)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    expected = [check for test in yaml.safe_load(CASES.read_text())["tests"] for check in test.get("alert_rule_test", ())]
    names = {alert["alert"] for alert in ALERTS}
    assert {check["alertname"] for check in expected if check.get("exp_alerts")} == names
    assert {check["alertname"] for check in expected if not check.get("exp_alerts")} == names


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_urgent_it_is_and_where_its_runbook_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.M)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
