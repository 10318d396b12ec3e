"""A typed Python client of the HTTP API, and the same for asyncio.

with Client() as ebbtide:
    ebbtide.generate("mnist-sngan", num_images=16, seed=7).save("digits.png")

async with AsyncClient() as ebbtide:
    (await ebbtide.generate("mnist-sngan", num_images=16, seed=7)).save("digits.png")
"""

from service.client.asynchronous import AsyncClient
from service.client.exchange import DEFAULT_ADDRESS, ClientError, Misunderstood, Picture, Refused, Unreachable
from service.client.waiting import Client

__all__ = ["DEFAULT_ADDRESS", "AsyncClient", "Client", "ClientError", "Misunderstood", "Picture", "Refused", "Unreachable"]
