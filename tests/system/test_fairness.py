"""Many callers in one house of real processes: nobody waits for another's thousands of chains."""

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def ask(house, caller, *, images, steps, **headers):
    body = {"model": "tiny-sngan", "sampler": "ddls", "mcmc": {"kernel": "mala", "steps": steps}, "num_images": images, "seed": 1}
    return house.client.post("/generate", json=body, headers={"X-Ebbtide-Caller": caller} | headers)


def test_one_chain_of_a_caller_does_not_wait_for_the_ten_thousand_of_another(house):
    house.start_generation(EBBTIDE_CAPACITY="16")
    alone = ask(house, "bob", images=1, steps=50)
    large = [ask(house, "ann", images=256, steps=450, Prefer="respond-async").headers["X-Ebbtide-Job"] for _ in range(40)]
    house.until(lambda: house.job(large[0])["progress"])
    for _ in range(3):
        beside = ask(house, "bob", images=1, steps=50)
        assert beside.status_code == 200
        assert beside.content == alone.content
    assert {house.job(job_id)["status"] for job_id in large} <= {"running", "queued"}  # ann has a long way to go
    assert house.job(large[-1])["eta_s"] > house.job(large[0])["eta_s"] > 0
    for job_id in large:
        house.client.delete(f"/jobs/{job_id}")
    house.until(lambda: all(house.job(job_id)["status"] == "canceled" for job_id in large))


def test_a_deadline_that_passes_while_it_runs_answers_504_with_the_reason(house):
    house.start_generation()
    body = {"model": "tiny-sngan", "sampler": "ddls", "mcmc": {"kernel": "mala", "steps": 10_000}, "num_images": 64, "deadline_s": 1.5}
    answer = house.client.post("/generate", json=body)
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:ebbtide:expired")
    assert "while it ran" in answer.json()["detail"]
