"""docker-compose.yml, the Dockerfiles and Prometheus agree with each other and with the code they start."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.__main__ import DRAIN_LIMIT_S as API_DRAIN_LIMIT_S
from service.command.up import DRAIN_LIMIT_S
from service.command.valkey import valkey_command
from service.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker-")]
TRAINERS = [name for name in SERVICES if name.startswith("trainer-")]
OURS = ["api", *WORKERS, *TRAINERS]
DOCKERFILES = sorted((ROOT / "docker").glob("*Dockerfile"))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", dockerfile.read_text()).replace("\\\n", " ")
    return [(word, rest.strip()) for line in text.splitlines() if line.strip() for word, rest in [line.split(maxsplit=1)]]


def last_command(dockerfile: Path) -> list[str]:
    command: list[str] = json.loads([rest for word, rest in instructions(dockerfile) if word == "CMD"][-1])
    return command


def dockerfile_of(service: str) -> Path:
    build = SERVICES[service]["build"]
    return ROOT / build["context"] / build["dockerfile"]


def command_of(service: str) -> list[str]:
    command: list[str] = SERVICES[service].get("command") or last_command(dockerfile_of(service))
    return command


def seconds(duration: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))


def mounts(service: str) -> dict[str, bool]:
    """Where a service mounts what, and whether it may write there."""
    found = [volume.split(":") for volume in SERVICES[service].get("volumes", [])]
    return {source: mode != ["ro"] for source, _, *mode in found}


@pytest.mark.parametrize("service", OURS)
def test_what_a_service_runs_exists(service: str) -> None:
    assert dockerfile_of(service).is_file()
    program, *arguments = command_of(service)
    assert [program, arguments[0]] == ["python", "-m"]
    tree = ast.parse((ROOT / arguments[1].replace(".", "/") / "__main__.py").read_text())
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_the_source_as_a_user_without_rights(dockerfile: Path) -> None:
    lines = instructions(dockerfile)
    words = [word for word, _ in lines]
    assert "USER" in words[words.index("COPY") :], "root to the end"
    assert dict(lines)["USER"] not in ("root", "0")
    assert any("PYTHONPATH=/app" in rest for word, rest in lines if word == "ENV")
    for word, rest in lines:
        if word == "COPY":
            source, target = rest.split()
            assert (ROOT / source).exists()
            assert (target == source) if (ROOT / source).is_dir() else target == "./"
    health = dict(lines)["HEALTHCHECK"]
    assert '"python"' in health, "slim images have no curl"


def test_the_api_image_has_no_torch_and_the_worker_image_the_pinned_one() -> None:
    pinned = re.search(r'"torch==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned
    api, worker = ((ROOT / "docker" / f"{name}.Dockerfile").read_text() for name in ("api", "worker"))
    assert '".[service,s3,telemetry]"' in api
    assert not [rest for word, rest in instructions(ROOT / "docker/api.Dockerfile") if word == "RUN" and "torch" in rest]
    assert f"ARG TORCH={pinned[1]}\n" in worker


def test_both_images_have_one_user_so_that_volumes_have_one_owner() -> None:
    assert len({re.search(r"--uid (\d+)", path.read_text())[1] for path in DOCKERFILES}) == 1  # type: ignore[index]


def test_a_gpu_is_reserved_for_the_gpu_profile_alone() -> None:
    for name, service in SERVICES.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(devices) == name.endswith("-gpu")
        assert all(device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] for device in devices)


def test_each_worker_computes_on_its_profiles_device_with_its_share_of_the_cores() -> None:
    for name in (*WORKERS, *TRAINERS):
        kind, _, profile = name.partition("-")
        environment = SERVICES[name]["environment"]
        assert environment["EBBTIDE_DEVICE"] == {"cpu": "cpu", "gpu": "cuda"}[profile]
        assert environment["EBBTIDE_THREADS"].startswith(f"${{{kind.upper()}_THREADS:-")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_has_everything_once(profile: str) -> None:
    active = [name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])]
    assert sorted(active) == sorted(["api", "redis", "prometheus", f"worker-{profile}", f"trainer-{profile}"])


def test_only_the_api_is_published_beyond_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"api", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for name in ("prometheus", "grafana") for port in published[name])


def test_redis_forgets_nothing() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync ${REDIS_FSYNC:-always}" in command
    assert "--maxmemory-policy noeviction" in command
    assert mounts("redis") == {"redis": True}


def test_redis_is_as_thrifty_as_the_embedded_one(tmp_path: Path) -> None:
    embedded, composed = (" ".join(command) for command in (valkey_command(0, tmp_path), SERVICES["redis"]["command"]))
    thrift = re.compile(r"--(?:stream-node-max-bytes|hash-max-listpack-value|auto-aof-rewrite-min-size|rdbcompression) \w+")
    assert len(thrift.findall(embedded)) == 4
    assert thrift.findall(composed) == thrift.findall(embedded)


def test_images_are_pinned_and_everything_restarts_and_reaps() -> None:
    assert "version" not in COMPOSE
    for name, service in SERVICES.items():
        tag = service["image"].partition(":")[2]
        assert tag, name
        assert tag != "latest", name
        assert service["restart"] == "unless-stopped"
        assert service["init"] is True


UNITS = {"gb": 2**30, "g": 2**30, "m": 2**20}


def limit(text: str) -> int:
    """Bytes of a default such as `${API_MEMORY:-1g}`."""
    number, unit = re.fullmatch(r"\$\{\w+:-(\d+)([a-z]+)\}", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def test_every_service_has_a_limit_of_memory_and_a_log_that_rotates() -> None:
    for name, service in SERVICES.items():
        assert limit(service["mem_limit"]) >= 2**28, name
        assert service["logging"]["driver"] == "json-file"
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_redis_refuses_before_its_container_is_killed_and_results_are_bounded_before_that() -> None:
    command = SERVICES["redis"]["command"]
    most = limit(command[command.index("--maxmemory") + 1])
    assert Settings.model_fields["max_result_bytes"].default * 1.25 < most < limit(SERVICES["redis"]["mem_limit"])
    assert Settings.model_fields["valkey_bytes"].default == most
    assert Settings.model_fields["max_caller_result_bytes"].default < Settings.model_fields["max_result_bytes"].default


def test_a_trainer_has_room_for_the_largest_run_that_is_accepted() -> None:
    for name in TRAINERS:
        assert limit(SERVICES[name]["mem_limit"]) > Settings.model_fields["max_training_bytes"].default


def test_services_wait_for_the_health_of_what_they_need() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in SERVICES[needed] or "HEALTHCHECK" in dockerfile_of(needed).read_text()
    assert all("redis" in SERVICES[name]["depends_on"] for name in OURS)


def test_checkpoints_are_written_by_trainers_and_by_the_api_which_promotes_and_deletes() -> None:
    writers = {name for name in OURS if mounts(name).get("checkpoints")}
    readers = {name for name in OURS if mounts(name).get("checkpoints") is False}
    assert (writers, readers) == ({"api", *TRAINERS}, set(WORKERS))
    named = {source for name in SERVICES for source in mounts(name) if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])


def test_trainers_alone_read_the_datasets_of_the_host() -> None:
    assert [name for name in SERVICES if mounts(name).get("./data/datasets") is False] == TRAINERS
    for name in TRAINERS:
        [target] = [volume.split(":")[1] for volume in SERVICES[name]["volumes"] if volume.startswith("./data/datasets:")]
        assert f"EBBTIDE_DATASETS={target} " in dockerfile_of(name).read_text()


def test_nobody_is_killed_while_draining() -> None:
    assert seconds(SERVICES["api"]["stop_grace_period"]) > API_DRAIN_LIMIT_S
    parts = {"api": "api", "worker": "generation", "trainer": "training", "redis": "valkey"}
    for name, service in SERVICES.items():
        grace = seconds(service["stop_grace_period"])
        assert grace > 10, "10 s is Docker's own"
        assert grace >= DRAIN_LIMIT_S.get(parts.get(name.partition("-")[0], ""), 0), f"{name} has less time than on one machine"


def test_prometheus_asks_every_service_on_the_port_it_answers() -> None:
    prometheus = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    targets = {discovery["names"][0]: discovery["port"] for job in prometheus["scrape_configs"] for discovery in job["dns_sd_configs"]}
    listening = {}
    for service in OURS:
        for alias in SERVICES[service].get("networks", {}).get("default", {}).get("aliases", [service]):
            listening[alias] = int(dict(instructions(dockerfile_of(service)))["EXPOSE"])
    assert targets == listening
    words = command_of("api")
    assert int(words[words.index("--port") + 1]) == targets["api"]
    worker = (ROOT / "docker/worker.Dockerfile").read_text()
    assert f"EBBTIDE_METRICS_PORT={targets['worker']}" in worker
    assert f'["python", "-m", "workers.health", "{targets["worker"]}"]' in worker
