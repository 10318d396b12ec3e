"""The store that most engine tests sample from; a test file with other needs has a fixture of its own."""

import pytest

from models.checkpoints import Store
from tests.tiny_models import publish_tiny


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Tiny models that were never trained: `gan`, an SNGAN, and `ebm`, a LEBM."""
    store = Store(tmp_path_factory.mktemp("checkpoints"))
    publish_tiny(store, "sngan", "gan")
    publish_tiny(store, "lebm", "ebm")
    return store
