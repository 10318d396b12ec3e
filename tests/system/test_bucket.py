"""A system whose checkpoints and images are in a bucket: nothing but Redis and S3 is shared between its processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.checkpoints import Store
from models.shared_checkpoints import SharedStore
from tests.system.house import ROOT, opened, until
from tests.tiny_models import publish_tiny
from workers.bucket import FilesystemBucket

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_a_model_published_to_a_bucket_is_sampled_into_one(valkey_url: str, redis: Any, s3: str, tmp_path: Path) -> None:
    env = {"EBBTIDE_CHECKPOINT_BUCKET": f"{s3}/models", "EBBTIDE_ARTIFACTS": f"{s3}/images"}
    with opened(valkey_url, tmp_path / "unused", tmp_path / "data") as house:
        house.port = house.free_port()
        house.client.base_url = f"http://127.0.0.1:{house.port}"
        house.start_api(**env, EBBTIDE_CHECKPOINTS=str(tmp_path / "api"))
        house.start_generation(**env, EBBTIDE_CHECKPOINTS=str(tmp_path / "worker"))
        publish_tiny(SharedStore(tmp_path / "trainer", FilesystemBucket(f"{s3}/models")), "sngan", "tiny")
        until(lambda: house.client.get("/models/tiny").status_code == 200)
        asked = {"model": "tiny", "num_images": 3, "mcmc": {"steps": 2}, "layout": "images", "seed": 7}
        images = house.images(house.finished(house.submit(**asked))["id"])
        assert all(image.startswith(b"\x89PNG") for image in images)
        assert len(FilesystemBucket(f"{s3}/images").listed()) == 3
        assert Store(tmp_path / "worker").versions("tiny") == [1]


@pytest.mark.parametrize("module", ["service", "workers.generation", "workers.training"])
def test_wrong_credentials_end_a_process_with_one_line(
    module: str, valkey_url: str, redis: Any, s3: str, s3_refuses: Any, tmp_path: Path
) -> None:
    with opened(valkey_url, tmp_path / "unused", tmp_path / "data") as house, s3_refuses():
        env = house.env | {"EBBTIDE_CHECKPOINT_BUCKET": s3}
        options = ["--port", str(house.free_port())] if module == "service" else []
        run = subprocess.run([sys.executable, "-m", module, *options], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert "EBBTIDE_CHECKPOINT_BUCKET" in run.stderr
    assert "Traceback" not in run.stderr
