"""`ebbtide keys`: makes, lists and revokes API keys, in Redis itself."""

import os
import time
from pathlib import Path
from typing import Annotated, get_args

import typer
from limits import parse
from pydantic import ValidationError

from service.client import ClientError
from service.command.output import err, listed, out
from workers.queue.access import AccessKey, AccessKeys, NameTaken, Scope
from workers.queue.broker import BrokerUnavailable
from workers.queue.connection import connect

app = typer.Typer(no_args_is_help=True, help="Makes, lists and revokes API keys, in Redis itself.")
Data = Annotated[Path, typer.Option("--data", envvar="EBBTIDE_DATA", help="Data folder of `ebbtide up`.")]
ADDRESS = "redis.url"  # in the data folder: where `ebbtide up` has its Redis


def keys(data: Path) -> AccessKeys:
    """Those in the Redis of EBBTIDE_REDIS_URL, else of an `ebbtide up` on this machine. Raises ClientError where there is neither."""
    url = os.environ.get("EBBTIDE_REDIS_URL", "")
    if not url and (data / ADDRESS).is_file():
        url = (data / ADDRESS).read_text().strip()
    if not url:
        raise ClientError(f"no Redis: set EBBTIDE_REDIS_URL, or run `ebbtide up` with the data folder {data}")
    return AccessKeys(connect(url))


def create(data: Path, name: str, scopes: list[str], rate: str | None, share: float | None) -> str:
    """The secret of a new key. Raises ClientError."""
    unknown = [scope for scope in scopes if scope not in get_args(Scope)]
    if unknown:
        raise ClientError(f"--scope: {unknown[0]!r} is none; choices: {', '.join(get_args(Scope))}")
    if rate is not None:
        try:
            parse(rate)
        except ValueError:
            raise ClientError(f"--rate: {rate!r} is no rate; one is 60/minute") from None
    try:
        return keys(data).create(AccessKey(name=name, scopes=frozenset(scopes), rate=rate, share=share))
    except ValidationError:
        raise ClientError(f"--name: {name!r} has other characters than letters, digits, `.`, `_` and `-`, or more than 64") from None
    except NameTaken:
        raise ClientError(f"--name: a key {name!r} exists; revoke it first") from None
    except BrokerUnavailable as error:
        raise ClientError(str(error)) from None


def rows(data: Path) -> list[tuple[str, ...]]:
    """Name, scopes, rate, share and day of each key. Raises ClientError."""
    try:
        found = sorted(keys(data).all().values(), key=lambda key: key.created)
    except BrokerUnavailable as error:
        raise ClientError(str(error)) from None
    return [
        (
            key.name,
            ", ".join(sorted(key.scopes)),
            key.rate or "",
            f"{key.share:g}" if key.share else "",
            time.strftime("%Y-%m-%d", time.gmtime(key.created)),
        )
        for key in found
    ]


def revoke(data: Path, name: str) -> None:
    """Raises ClientError where there is no key of that name."""
    try:
        if not keys(data).revoke(name):
            raise ClientError(f"no key {name!r}")
    except BrokerUnavailable as error:
        raise ClientError(str(error)) from None


@app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Who it is for; jobs are listed and take turns by it.")],
    scope: Annotated[list[str], typer.Option(help="generate, train or admin; repeatable.")],
    rate: Annotated[str | None, typer.Option(help="Most requests, such as 60/minute. Default: no limit.")] = None,
    share: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="Of the backlog and of results kept, such as 0.2. Default: all."),
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Makes a key and prints its secret, which is shown only now."""
    print(create(data, name, scope, rate, share))
    err.print("it is not shown again; send it as `Authorization: Bearer ...`, or set EBBTIDE_API_KEY", highlight=False, soft_wrap=True)


@app.command("list")
def keys_list(data: Data = Path("data")) -> None:
    """Lists the keys, without their secrets."""
    listed(("name", "scopes", "rate", "share", "created"), rows(data))


@app.command("revoke")
def keys_revoke(name: str, data: Data = Path("data")) -> None:
    """Revokes a key; within two seconds it opens nothing."""
    revoke(data, name)
    out.print(f"revoked {name}", highlight=False)
