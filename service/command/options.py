"""Options that several commands share."""

from typing import Annotated

import typer

Address = Annotated[str, typer.Option("--url", envvar="EBBTIDE_URL", help="Address of the API.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
