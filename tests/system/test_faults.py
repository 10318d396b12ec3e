"""Nothing accepted is lost and nothing is delivered twice: real processes killed, stopped and cut off; the books agree each time."""

import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import pytest

from tests.system.books import close_the_books
from tests.system.house import free_port, opened, until
from tests.system.poisoned import POISON, POISON_FOR_THE_ENGINE

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def mala(steps):
    return {"kernel": "mala", "steps": steps}


def request_for(seed, *, steps=200, num_images=1, **more):
    return {"model": "tiny", "sampler": "ddls", "num_images": num_images, "seed": seed, "mcmc": mala(steps)} | more


def together(*acts):
    """Runs each in a thread; their results."""
    with ThreadPoolExecutor(len(acts)) as threads:
        return [future.result() for future in [threads.submit(act) for act in acts]]


def test_a_hundred_jobs_of_a_killed_worker_are_back_within_ten_seconds(tiny_house, gate):
    house, way = tiny_house, gate()
    way.refuse()  # the heir is loaded and waits for Redis: it takes nothing before the kill
    house.begin_generation(EBBTIDE_CAPACITY="128", EBBTIDE_REDIS_URL=way.url)
    doomed = house.start_generation(EBBTIDE_CAPACITY="128")
    expected = house.images(house.finished(house.submit(**request_for(0)))["id"])
    ids = house.submit_all(request_for(seed, steps=800) for seed in range(99)) + [house.submit(**request_for(0))]
    until(lambda: house.statuses(ids[:99]) == {"running": 99})
    doomed.send_signal(signal.SIGKILL)
    killed_at = time.time()
    way.open()
    doomed.wait(30)
    died = {job["id"] for job in house.jobs().values() if job["status"] == "running"}
    assert len(died) >= 99
    close_the_books(house, *ids)
    starts = [house.times(job_id, "started") for job_id in died]
    assert {len(times) for times in starts} == {2}
    assert max(again for _, again in starts) - killed_at < 10
    assert house.statuses(ids) == {"finished": 100}
    assert house.images(ids[-1]) == expected


def test_a_worker_that_was_away_for_longer_than_its_lease_delivers_nothing_twice(tiny_house):
    house = tiny_house
    away, other = together(house.begin_generation, house.begin_generation)
    until(lambda: house.workers() == 2)
    ids = house.submit_all(request_for(seed, steps=500) for seed in range(40))
    until(lambda: house.statuses(ids)["queued"] == 0)
    away.send_signal(signal.SIGSTOP)
    until(lambda: house.statuses(ids) == {"finished": 40})
    away.send_signal(signal.SIGCONT)
    ids += house.submit_all(request_for(seed) for seed in range(40, 60))
    close_the_books(house, *ids)
    assert house.statuses(ids) == {"finished": 60}
    assert (away.poll(), other.poll()) == (None, None)


def test_a_killed_valkey_comes_back_with_every_job_it_accepted(own_valkey, tiny_checkpoints, tmp_path):
    with opened(own_valkey.url, tiny_checkpoints, tmp_path) as house:
        house.start_generation()
        accepted, killed = [], Event()

        def call(caller):
            while not killed.is_set():
                answer = house.client.post("/generate", json=request_for(len(accepted)), headers={"Prefer": "respond-async"})
                if answer.status_code == 202:
                    accepted.append(answer.headers["X-Ebbtide-Job"])
                assert answer.status_code in (202, 503), answer.text

        with ThreadPoolExecutor(4) as callers:
            calls = [callers.submit(call, caller) for caller in range(4)]
            until(lambda: len(accepted) > 100)
            own_valkey.kill()  # in the middle of whatever it was doing
            killed.set()
            assert [each.exception() for each in calls] == [None] * 4
        own_valkey.start()
        until(lambda: house.client.get("/readyz").status_code == 200, limit_s=20)
        close_the_books(house, *accepted)
        assert house.statuses(accepted) == {"finished": len(accepted)}


def test_a_redis_without_room_refuses_new_jobs_clearly_and_those_it_has_end(own_valkey, tiny_checkpoints, tmp_path):
    with opened(own_valkey.url, tiny_checkpoints, tmp_path) as house:
        worker = house.start_generation()
        ids = house.submit_all(request_for(seed, steps=300) for seed in range(20))
        until(lambda: house.statuses(ids)["running"])
        house.redis.config_set("maxmemory", 1)
        assert _refusal(house.port)["type"] == "urn:ebbtide:redis-full"
        until(lambda: house.page(worker)["ebbtide_redis_errors_total"] >= 2)
        house.redis.config_set("maxmemory", 0)
        ids.append(house.submit(**request_for(0)))
        close_the_books(house, *ids)
        assert worker.poll() is None
        problems = [job["problem"] for job in house.jobs().values() if job["problem"]]
        assert all("Redis takes no images" in problem["detail"] for problem in problems)


def test_workers_and_apis_wait_for_a_redis_out_of_reach_for_twenty_seconds_and_go_on(tiny_house, gate):
    house, refused, silent = tiny_house, gate(), gate()
    ways = {"refused": refused, "silent": silent}
    ports = {name: free_port() for name in ways}
    together(*(lambda name=name: house.start_api(ports[name], EBBTIDE_REDIS_URL=ways[name].url) for name in ways))
    workers = [house.begin_generation(EBBTIDE_REDIS_URL=way.url) for way in ways.values()]
    until(lambda: house.workers() == 2)

    def picture(name):
        return httpx.post(f"http://127.0.0.1:{ports[name]}/generate", json=request_for(7, steps=1500), timeout=90).status_code

    with ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(picture, name) for name in ways]
        ids = house.submit_all(request_for(seed, steps=600) for seed in range(40))
        until(lambda: (seen := house.statuses()).total() == 42 and seen["queued"] == 0)
        refused.refuse()
        silent.silence()
        cut_at = time.monotonic()
        until(lambda: house.workers() == 0)
        answers = together(*(lambda name=name: _refusal(ports[name]) for name in ways))
        assert {answer["type"] for answer in answers} == {"urn:ebbtide:redis-away"}
        ids += house.submit_all(request_for(seed) for seed in range(40, 50))  # nobody is there to take them
        until(lambda: time.monotonic() - cut_at > 20)
        refused.open()
        silent.open()
        until(lambda: house.workers() == 2, limit_s=45)
        ids += house.submit_all(request_for(seed) for seed in range(50, 60))
        assert [answer.result() for answer in waiting] == [200, 200]
    assert [worker.poll() for worker in workers] == [None, None]
    close_the_books(house, *ids)
    assert house.statuses(ids) == {"finished": 60}


def _refusal(port):
    """What an API without Redis says to a new job."""
    answer = httpx.post(f"http://127.0.0.1:{port}/generate", json=request_for(1), headers={"Prefer": "respond-async"}, timeout=60)
    assert answer.status_code == 503
    return answer.json()


def test_a_job_outlives_the_api_that_took_it(tiny_house):
    house = tiny_house
    house.start_generation()
    with ThreadPoolExecutor(1) as caller:
        lost = caller.submit(house.client.post, "/generate", json=request_for(3, steps=1500))
        until(lambda: house.statuses()["running"] == 1)
        house.processes[0].kill()
        assert isinstance(lost.exception(timeout=30), httpx.TransportError)
    house.processes[0].wait(30)
    house.start_api()
    (job_id,) = house.jobs()
    house.finished(job_id)
    assert len(house.images(job_id)) == 1
    close_the_books(house, job_id)


def test_sigterm_under_load_ends_what_runs_keeps_what_waits_and_exits_cleanly(tiny_house):
    house = tiny_house
    worker = house.start_generation(EBBTIDE_CAPACITY="16")
    ids = house.submit_all(request_for(seed, steps=2000, num_images=2) for seed in range(24))
    until(lambda: (now := house.statuses(ids))["running"] >= 4 and now["queued"] >= 8)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    left = house.statuses(ids)
    assert set(left) == {"finished", "queued"}
    assert left["finished"] >= 4
    assert house.workers() == 0
    house.start_generation()
    close_the_books(house, *ids)
    assert house.statuses(ids) == {"finished": 24}


def test_neighbours_of_a_job_that_kills_its_workers_finish_with_the_right_bytes(tiny_house):
    house = tiny_house
    neighbours = [request_for(seed, num_images=1 + seed % 3) for seed in range(6)]
    ids = house.submit_all([*neighbours, request_for(POISON)])
    for _ in range(3):  # twice among them, once alone
        assert house.begin_generation("tests.system.poisoned").wait(60) == -signal.SIGKILL
    heir = house.begin_generation("tests.system.poisoned")
    problem = until(lambda: house.job(ids[-1])["problem"], limit_s=30)
    assert problem["reason"] == "abandoned"
    assert "the last time with no other job beside it" in problem["detail"]
    found = [house.images(house.finished(job_id)["id"]) for job_id in ids[:-1]]
    assert found == [house.images(house.finished(house.submit(**request))["id"]) for request in neighbours]
    assert heir.poll() is None
    close_the_books(house, *ids)


@pytest.mark.parametrize(("seed", "status"), [(POISON, -signal.SIGKILL), (POISON_FOR_THE_ENGINE, 1)])
def test_a_job_that_kills_its_worker_twice_fails_and_the_next_worker_lives_on(seed, status, tiny_house):
    house = tiny_house
    poison = house.submit(**request_for(seed))
    for _ in range(2):
        assert house.begin_generation("tests.system.poisoned").wait(60) == status
    heir = house.begin_generation("tests.system.poisoned")
    innocent = house.submit(**request_for(1))
    problem = until(lambda: house.job(poison)["problem"], limit_s=30)
    assert problem["reason"] == "abandoned"
    assert "died twice" in problem["detail"]
    house.finished(innocent)
    assert heir.poll() is None
    close_the_books(house, poison, innocent)


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_store_that_takes_no_images_fails_the_job_clearly_and_keeps_nothing_half_written(trouble, tiny_house, tmp_path):
    house, folder = tiny_house, tmp_path / "images"
    folder.mkdir()
    house.env["EBBTIDE_ARTIFACTS"] = str(folder) if trouble == "full" else "/sys/images"
    worker = house.start_generation()
    if trouble == "full":  # the disk ends in the middle of a file: less than the grid needs, more than one image
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    ids = house.submit_all(request_for(seed, num_images=32) for seed in range(4))
    views = [until(lambda job_id=job_id: (seen := house.job(job_id))["problem"] and seen) for job_id in ids]
    assert {view["problem"]["reason"] for view in views} == {"unavailable"}
    assert all("cannot store images" in view["problem"]["detail"] for view in views)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    if trouble == "full":
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        later = house.submit(**request_for(1, num_images=32))
        house.finished(later)
        assert len(list((folder / later).glob("*.png"))) == 33
    close_the_books(house, *ids)


def test_two_workers_share_a_backlog_and_do_nothing_twice(tiny_house):
    house = tiny_house
    requests = [request_for(seed, steps=20 + 10 * (seed % 30), num_images=1 + seed % 8) for seed in range(60)]
    ids = house.submit_all(requests)
    together(house.begin_generation, house.begin_generation)
    close_the_books(house, *ids)
    views = house.jobs()
    assert house.statuses(ids) == {"finished": 60}
    assert len({views[job_id]["result"]["worker"] for job_id in ids}) == 2
    assert [house.events(job_id).count("started") for job_id in ids] == [1] * 60
