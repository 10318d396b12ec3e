"""A calibration as a job, in a process of its own: it ends with a version, or says why there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.calibration.settings import Logistic
from models.checkpoints import Store
from tests.tiny_models import publish_tiny
from workers.jobs import CalibrateJob, Status

ROOT = Path(__file__).parents[3]


@pytest.mark.system
def test_a_calibration_that_does_not_help_fails_with_the_reason_and_publishes_nothing(broker, settings):
    store = Store(settings.checkpoints)
    card = publish_tiny(store, "sngan", "toy")
    asked = CalibrateJob(model="toy", version=1, digest=card.digest, settings=Logistic(), dataset="digits", seed=1)
    job_id = broker.submit(asked)
    told = {"EBBTIDE_REDIS_URL": settings.redis_url, "EBBTIDE_DATA": str(settings.data), "EBBTIDE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "workers.training", "--burst"], env=os.environ | told, cwd=ROOT, timeout=200, check=True)
    view = broker.view(job_id)
    assert view.job == asked
    assert (view.status, view.problem.reason) == (Status.FAILED, "no-gain")
    assert "nothing was published" in view.problem.detail
    assert store.versions("toy") == [1]
