"""BentoML's no-op: run by its own environment as `bentoml serve bento_service:Painter`."""

from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from painting import paint


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Painter:
    @bentoml.api
    async def paint(self, seed: int) -> Annotated[bytes, ContentType("image/png")]:
        return paint(seed)
