"""The whole `ebbtide` command: the remote commands, and `up`, `keys` and `evaluate`, which need the server's sources."""

from pathlib import Path
from typing import Annotated

import typer

from service.command.access import app as keys_app
from service.command.options import AsJson
from service.command.output import fail, out
from service.command.remote import app, main

__all__ = ["main"]
app.add_typer(keys_app, name="keys")


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = 8000,
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    data: Annotated[Path, typer.Option(envvar="EBBTIDE_DATA", help="Folder of checkpoints, jobs, images and logs.")] = Path("data"),
    trainer: Annotated[bool, typer.Option(help="Start a training worker too.")] = True,
) -> None:
    """Starts the API, its workers and, unless EBBTIDE_REDIS_URL is set, Valkey; Ctrl-C stops them all."""
    from service.command.up import UpError, run

    try:
        run(host=host, port=port, data=data, trainer=trainer)
    except UpError as error:
        fail(error)


@app.command()
def evaluate(  # typer makes an option of each parameter
    model: Annotated[str, typer.Argument(help="A checkpoint: name or name@version.")],
    samplers: Annotated[str | None, typer.Option(help="Those to measure, with commas between. Default: all of the card.")] = None,
    images: Annotated[int, typer.Option(help="Images of each sampler and seed.")] = 2000,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    oracle: Annotated[bool, typer.Option(help="Add exact reweighting and, without any head, balanced classes.")] = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="A JSON file to write besides.")] = None,
    as_json: AsJson = False,
    data: Annotated[Path, typer.Option(envvar="EBBTIDE_DATA", help="Folder of checkpoints.")] = Path("data"),
) -> None:
    """Measures a checkpoint on this machine, on images that chose nothing; needs no API."""
    from service.command import evaluation

    arguments = [model, "--images", str(images), "--seeds", str(seeds), *(["--oracle"] if oracle else [])]
    try:
        found = evaluation.run([*arguments, *(["--samplers", samplers] if samplers else [])], data)
    except evaluation.EvaluationError as error:
        fail(error)
    if out_file is not None:
        out_file.write_text(found.model_dump_json(indent=2) + "\n")
    if as_json:
        out.print_json(found.model_dump_json())
        return
    for table in evaluation.tables(found):
        out.print(table)
