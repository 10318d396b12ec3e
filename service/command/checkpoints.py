"""The commands on published models: list, download, promote, delete."""

from pathlib import Path
from typing import Annotated

import typer

from service.client import DEFAULT_ADDRESS, Client
from service.command.options import Address, AsJson
from service.command.output import listed, out
from service.protocol.schemas import ModelList

app = typer.Typer()
Version = Annotated[str, typer.Argument(help="name@version")]


@app.command()
def models(as_json: AsJson = False, url: Address = DEFAULT_ADDRESS) -> None:
    """Lists the models; * marks default versions and samplers."""
    with Client(url) as client:
        cards = client.models()
    if as_json:
        out.print_json(ModelList(models=cards).model_dump_json(exclude_none=True))
        return
    rows = []
    for card in cards:
        samplers = ", ".join(name + ("*" if name == card.default_sampler else "") for name in card.samplers)
        versions = (f"{version}{'*' * (version == card.default_version)}" for version in card.versions)
        rows.append((card.name, ", ".join(versions), card.family, samplers, "x".join(map(str, card.image_shape))))
    listed(("model", "versions", "family", "samplers", "image"), rows)


@app.command()
def download(
    reference: Annotated[str, typer.Argument(help="name or name@version")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; default: the reference.")] = Path(),
    url: Address = DEFAULT_ADDRESS,
) -> None:
    """Writes a model's card and weights into a folder and checks their digest; needs a key with the scope admin."""
    with Client(url) as client:
        folder = client.download(reference, reference if output == Path() else output)
    out.print(f"{folder}: card.json, weights.safetensors", highlight=False)


@app.command()
def promote(version: Version, url: Address = DEFAULT_ADDRESS) -> None:
    """Makes a version the default, newer or older than what is it now."""
    with Client(url) as client:
        card = client.promote(version)
    out.print(f"{card.name}@{card.version} is the default", highlight=False)


@app.command()
def delete(version: Version, url: Address = DEFAULT_ADDRESS) -> None:
    """Deletes a version that is not the default; needs a key with the scope admin."""
    with Client(url) as client:
        client.delete(version)
    out.print(f"deleted {version}", highlight=False)
