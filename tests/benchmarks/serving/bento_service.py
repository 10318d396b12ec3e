"""BentoML's no-op, run in its own environment by `bentoml serve bento_service:Painter`; its metrics are off where UNCOUNTED is set."""

import os
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from painting import paint

COUNTED = {"enabled": "UNCOUNTED" not in os.environ}


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics=COUNTED, logging={"access": {"enabled": False}})
class Painter:
    @bentoml.api
    async def paint(self, seed: int) -> Annotated[bytes, ContentType("image/png")]:
        return paint(seed)
