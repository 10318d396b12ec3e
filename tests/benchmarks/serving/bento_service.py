"""BentoML's no-op: run by its own environment as `bentoml serve bento_service:Painter`; it counts requests unless UNCOUNTED is set."""

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
