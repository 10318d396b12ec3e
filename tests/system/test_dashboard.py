"""Every query of the dashboard and every rule, asked of a real Prometheus that scrapes a real system."""

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.system.house import ROOT, House, free_port, opened, until
from workers.queue.access import AccessKey, AccessKeys

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
DASHBOARD = json.loads((ROOT / "docker/grafana/dashboards/ebbtide.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {target["expr"].replace("$__rate_interval", "1m") for panel in PANELS for target in panel["targets"]}
RULES = [yaml.safe_load((ROOT / "docker/prometheus" / name).read_text()) for name in ("recording.yml", "alerts.yml")]
TRAIN = {"name": "trained", "family": "sngan", "dataset": "digits", "steps": 100_000, "width": 4, "latent_size": 2, "calibrate": False}
KEPT = re.compile(r"ebbtide_[a-z_]+|ebbtide:[a-z0-9_:]+")


class Prometheus:
    """A server that scrapes a house every half second, by the rules that ship."""

    def __init__(self, house: House, targets: dict[str, list[int]], folder: Path, http: httpx.Client) -> None:
        folder.mkdir()
        for name in ("recording.yml", "alerts.yml"):
            shutil.copy(ROOT / "docker/prometheus" / name, folder)
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]} for name, ports in targets.items()
        ]
        times = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config = {"global": times, "rule_files": ["recording.yml", "alerts.yml"], "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        house.processes.append(subprocess.Popen(["prometheus", *options, "--log.level=error"]))
        self._http, http.base_url = http, httpx.URL(f"http://127.0.0.1:{port}/api/v1")
        until(self._ready, limit_s=30)

    def ask(self, query: str) -> list[dict[str, Any]]:
        answer = self._http.get("/query", params={"query": query})
        assert answer.status_code == 200, f"{query}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def has(self, query: str) -> bool:
        """Whether a query has an answer that is a number."""
        return any(math.isfinite(float(sample["value"][1])) for sample in self.ask(query))

    def get(self, path: str) -> Any:
        return self._http.get(path).json()["data"]

    def _ready(self) -> bool:
        try:
            return self._http.get("/query", params={"query": "up"}).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def watched(
    valkey_url: str, redis: Any, tiny_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[House, Prometheus]]:
    """A system in use: with a key, a worker, a training run under way, and Prometheus."""
    if shutil.which("prometheus") is None:
        if os.environ.get("CI"):
            raise AssertionError("prometheus is missing: install Debian's package prometheus")
        pytest.skip("no Prometheus here: Debian has the package prometheus")
    redis.config_set("maxmemory", "1gb")
    secret = AccessKeys(redis).create(AccessKey(name="me", scopes=frozenset({"admin"})))
    monkeypatch.setenv("EBBTIDE_OPEN_METRICS", "true")
    with opened(valkey_url, tiny_checkpoints, tmp_path / "data") as house:
        house.client.headers["Authorization"] = f"Bearer {secret}"
        house.env["EBBTIDE_CHECKPOINTS"] = str(tiny_checkpoints)
        worker, trainer_port = house.begin_generation(), free_port()
        house.start("workers.training", EBBTIDE_METRICS_PORT=str(trainer_port))
        until(lambda: house.workers() > 0)
        assert house.client.post("/train", json=TRAIN).status_code == 202
        targets = {"api": [house.port], "worker": [house.pages[worker]], "trainer": [trainer_port]}
        with httpx.Client(timeout=30) as http:
            yield house, Prometheus(house, targets, tmp_path / "prometheus", http)
    redis.config_set("maxmemory", "0")


def test_every_query_of_the_dashboard_has_an_answer(watched: tuple[House, Prometheus]) -> None:
    house, prometheus = watched

    def unanswered() -> set[str]:
        house.finished(house.submit(model="tiny", num_images=2, mcmc={"kernel": "mala", "steps": 3}))
        house.client.get("/jobs/none")
        return {query for query in QUERIES if not prometheus.has(query)}

    give_up = time.monotonic() + 90
    while left := unanswered():
        assert time.monotonic() < give_up, f"no answer: {sorted(left)}"
    rules = [rule for group in prometheus.get("/rules")["groups"] for rule in group["rules"]]
    assert len(rules) == sum(len(group["rules"]) for rules in RULES for group in rules["groups"])
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    assert [alert["labels"]["alertname"] for alert in prometheus.get("/alerts")["alerts"]] == []
    known = {*prometheus.get("/label/__name__/values")}
    asked = {name for rule in rules for name in KEPT.findall(rule["query"])} | {name for query in QUERIES for name in KEPT.findall(query)}
    assert asked <= known, f"nobody exports {asked - known}"


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    places = [(panel["gridPos"]["x"] + dx, panel["gridPos"]["y"]) for panel in DASHBOARD["panels"] for dx in range(panel["gridPos"]["w"])]
    assert len(places) == len(set(places))
    assert all(panel["title"] and panel["targets"] for panel in PANELS)
