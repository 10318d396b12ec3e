"""API keys on a real server: who may do what, who sees what, rates, and what happens without any key."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from service.client import Client, Refused
from service.protocol.exposure import is_loopback
from service.settings import Settings
from tests.service.admission.conftest import Guarded
from tests.service.conftest import LIMIT_S
from workers.queue import keys
from workers.queue.access import AccessKey, AccessKeys, NameTaken, digest
from workers.queue.broker import Broker

BODY = {"model": "toy", "sampler": "prior"}


def test_a_secret_is_stored_as_its_hash_and_a_name_once(access: AccessKeys, broker: Broker) -> None:
    secret = access.create(AccessKey(name="alice", scopes=frozenset({"generate"})))
    assert len(secret) > 40
    stored = broker.redis.hgetall(keys.ACCESS)
    assert list(stored) == [digest(secret).encode()]
    assert secret.encode() not in b"".join([*stored, *stored.values()])
    with pytest.raises(NameTaken):
        access.create(AccessKey(name="alice", scopes=frozenset({"admin"})))
    assert access.revoke("alice")
    assert not access.revoke("alice")
    assert access.all() == {}


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic cm9vdDpyb290", "bearer eb_", "\x7f"])
def test_who_is_not_known_gets_401_on_every_route_but_pages_and_probes(header: str | None, guarded: Guarded) -> None:
    client = guarded(None)
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("POST", "/generate"),
        ("POST", "/train"),
        ("GET", "/jobs"),
        ("GET", "/models"),
        ("GET", "/metrics"),
        ("GET", "/no"),
    ):
        answer = client.request(method, path, json=BODY if method == "POST" else None, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="ebbtide"'), path
        assert answer.headers["content-type"].startswith("application/problem+json")
    for path in ("/", "/livez", "/version", "/docs", "/openapi.json", "/playground/page.js"):
        assert client.get(path, headers=headers).status_code == 200, path


def test_scopes_say_what_a_key_may_do(guarded: Guarded, painter) -> None:
    painter_only, trainer, admin = guarded("alice", "generate"), guarded("tom", "train"), guarded("root")
    train = {"name": "toy9", "family": "sngan", "dataset": "digits", "steps": 1}
    assert painter_only.post("/generate", json=BODY).status_code == 200
    assert trainer.post("/generate", json=BODY).status_code == 403
    assert trainer.post("/train", json=train).status_code == 202
    assert painter_only.post("/train", json=train).status_code == 403
    assert "'train'" in painter_only.post("/models/toy/calibrate", json={}).json()["detail"]
    for allowed in (admin.post("/generate", json=BODY), admin.post("/train", json=train)):
        assert allowed.is_success


def test_a_key_sees_its_own_jobs_alone_and_an_admin_all(guarded: Guarded, painter) -> None:
    alice, bob, admin = guarded("alice", "generate"), guarded("bob", "generate"), guarded("root")
    made = alice.post("/generate", json=BODY)
    job, image = made.headers["x-ebbtide-job"], made.headers["content-location"]
    for path in (f"/jobs/{job}", image, f"{image}.png".removesuffix(".png"), f"/jobs/{job}/events", f"/jobs/{job}/images/grid"):
        assert bob.get(path).status_code == 404, path
    assert bob.delete(f"/jobs/{job}").status_code == 404
    assert bob.get("/jobs").json()["jobs"] == []
    for sees in (alice, admin):
        assert sees.get(f"/jobs/{job}").status_code == sees.get(image).status_code == 200
        assert [each["id"] for each in sees.get("/jobs").json()["jobs"]] == [job]


def test_an_admin_lists_jobs_by_key_and_alone_gets_weights(guarded: Guarded, painter) -> None:
    alice, bob, admin = guarded("alice", "generate"), guarded("bob", "generate", "train"), guarded("root")
    for client in (alice, bob):
        client.post("/generate", json=BODY)
    assert len(admin.get("/jobs", params={"key": "alice"}).json()["jobs"]) == 1
    assert alice.get("/jobs", params={"key": "bob"}).json()["jobs"] == []
    path = "/models/toy@1/weights.safetensors"
    assert [client.get(path).status_code for client in (alice, bob, admin)] == [403, 403, 404]
    assert alice.head(path).status_code == 403


def test_one_idempotency_key_of_two_api_keys_stands_for_two_jobs(guarded: Guarded, painter) -> None:
    answers = [guarded(name, "generate").post("/generate", json=BODY, headers={"Idempotency-Key": "a"}) for name in ("alice", "bob")]
    assert len({answer.headers["x-ebbtide-job"] for answer in answers}) == 2


def test_turns_go_by_key_whatever_the_caller_calls_itself(guarded: Guarded, painter, broker: Broker) -> None:
    guarded("alice", "generate").post("/generate", json=BODY, headers={"X-Ebbtide-Caller": "forged"})
    assert [view.job.caller for view in broker.recent()] == ["alice"]


def test_a_key_has_its_share_of_the_backlog_and_of_what_is_kept(guarded: Guarded, settings: Settings) -> None:
    asynchronous = {"Prefer": "respond-async"}
    alice, bob = guarded("alice", "generate", share=0.001), guarded("bob", "generate")
    steps = settings.max_backlog_chain_steps // 1000
    long = {"model": "toy", "num_images": 1, "mcmc": {"kernel": "mala", "steps": min(steps, 10_000)}}
    assert alice.post("/generate", json=long, headers=asynchronous).status_code == 202  # alone it may be of any size
    refused = alice.post("/generate", json=long, headers=asynchronous)
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:ebbtide:too-busy")
    assert "share" in refused.json()["detail"]
    assert "retry-after" in refused.headers
    assert bob.post("/generate", json=long, headers=asynchronous).status_code == 202
    images = {"model": "toy", "sampler": "prior", "num_images": 250}
    carol = guarded("carol", "generate", share=0.001)
    answers = [carol.post("/generate", json=images, headers=asynchronous) for _ in range(4)]
    assert (answers[0].status_code, answers[-1].status_code) == (202, 429)
    assert answers[-1].json()["type"] == "urn:ebbtide:results-full"
    assert bob.post("/generate", json=images, headers=asynchronous).status_code == 202


def test_requests_are_counted_by_key(guarded: Guarded, painter) -> None:
    alice, admin = guarded("alice", "generate"), guarded("root")
    for path in ("/models", "/jobs/none", "/models"):
        alice.get(path)
    alice.post("/train", json={})
    page = admin.get("/metrics").text
    assert 'ebbtide_key_requests_total{key="alice",status="2xx"}' in page
    assert 'ebbtide_key_requests_total{key="alice",status="4xx"} 2.0' in page
    for name in ("ebbtide_results_bytes", "ebbtide_redis_memory_bytes", 'ebbtide_disk_free_bytes{folder="checkpoints"}'):
        assert f"\n{name} " in page, name


def test_a_rate_is_kept_and_told(guarded: Guarded, painter) -> None:
    client = guarded("fast", "generate", rate="5/hour")  # asking whether it is known takes some
    answers = [client.get("/jobs") for _ in range(6)]
    assert answers[0].headers["ratelimit-policy"] == '"key";q=5;w=3600'
    assert answers[-1].status_code == 429
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600
    assert answers[-1].headers["ratelimit"].startswith('"key";r=0;t=')
    assert guarded("root").get("/jobs").status_code == 200


def test_a_revoked_key_opens_nothing(guarded: Guarded, access: AccessKeys) -> None:
    client = guarded("alice", "generate")
    assert access.revoke("alice")
    give_up = time.monotonic() + LIMIT_S
    while client.get("/jobs").status_code != 401:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_metrics_are_open_by_setting(access: AccessKeys, serve, settings: Settings) -> None:
    access.create(AccessKey(name="root", scopes=frozenset({"admin"})))
    assert serve(settings.model_copy(update={"open_metrics": True})).get("/metrics").status_code == 200


def test_the_python_client_sends_the_key(guarded: Guarded, painter, monkeypatch: pytest.MonkeyPatch) -> None:
    known = guarded("alice", "generate")
    secret = known.headers["authorization"].removeprefix("Bearer ")
    with Client(str(known.base_url), api_key=secret) as ebbtide:
        assert ebbtide.generate("toy").png
    monkeypatch.setenv("EBBTIDE_API_KEY", secret)
    with Client(str(known.base_url)) as ebbtide:
        assert len(ebbtide.jobs()) == 1
    monkeypatch.delenv("EBBTIDE_API_KEY")
    with Client(str(known.base_url)) as ebbtide, pytest.raises(Refused, match="API key is needed"):
        ebbtide.jobs()


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)]
)
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_without_a_key_no_other_address_is_listened_at(settings: Settings, broker: Broker, tmp_path: Path) -> None:
    env = os.environ | {"EBBTIDE_REDIS_URL": settings.redis_url, "EBBTIDE_DATA": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "service", "--host", "0.0.0.0", "--port", "0"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "ebbtide keys create" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_command_makes_lists_and_revokes_keys(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    env = os.environ | {"EBBTIDE_REDIS_URL": settings.redis_url, "EBBTIDE_DATA": str(tmp_path)}

    def ebbtide(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from service.command.cli import main; main()", "keys", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    made = ebbtide("create", "--name", "alice", "--scope", "generate", "--scope", "train", "--rate", "60/minute")
    secret = made.stdout.strip()
    assert AccessKeys(redis).all()[digest(secret)].scopes == {"generate", "train"}
    assert ebbtide("list").stdout.splitlines()[1].split("\t")[:3] == ["alice", "generate, train", "60/minute"]
    assert secret not in ebbtide("list").stdout
    for words, told in (
        (("create", "--name", "alice", "--scope", "admin"), "exists"),
        (("create", "--name", "a b", "--scope", "admin"), "--name"),
        (("create", "--name", "bob", "--scope", "root"), "choices: generate, train, admin"),
        (("create", "--name", "bob", "--scope", "train", "--rate", "fast"), "60/minute"),
        (("revoke", "nobody"), "no key 'nobody'"),
    ):
        failed = ebbtide(*words)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert told in failed.stderr
        assert "Traceback" not in failed.stderr
    assert ebbtide("revoke", "alice").returncode == 0
    assert AccessKeys(redis).all() == {}


def test_a_redis_that_is_slow_delays_requests_of_known_keys_by_a_moment_alone(guarded: Guarded, broker: Broker) -> None:
    client = guarded("alice", "generate")
    assert client.get("/models").status_code == 200
    time.sleep(1.1)  # until Redis would be asked again
    broker.redis.client_pause(2500)
    started = time.monotonic()
    answers = [client.get("/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert time.monotonic() - started < 2
    broker.redis.client_unpause()
