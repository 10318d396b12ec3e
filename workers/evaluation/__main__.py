"""`python -m workers.evaluation MODEL` measures a published checkpoint and writes what it found as JSON; what it does goes to stderr."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from models.checkpoints import CheckpointError
from workers import computing
from workers.bucket import open_store
from workers.settings import WorkerSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits with status 1 and the reason where the model, its dataset or a setting is no good."""
    settings = WorkerSettings()
    given = _parser(settings).parse_args(arguments)
    device = computing.begin(settings)
    from models import datasets
    from models.training.evaluation import EvaluationSettings, evaluate

    try:
        wanted = EvaluationSettings(samplers=given.samplers, images=given.images, seeds=given.seeds, oracle=given.oracle)
        store = open_store(settings.model_copy(update={"checkpoints": given.checkpoints}))
        card = store.card(*_version(given.model))
        splits = datasets.load(card.training.dataset, settings.datasets)
        found = evaluate(store, card, splits, wanted, device=device, report=_say)
    except (CheckpointError, datasets.DatasetUnavailable) as error:
        raise SystemExit(str(error)) from None
    except ValidationError as error:
        raise SystemExit("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())) from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    content = found.model_dump_json(indent=2) + "\n"
    if given.out is None:
        print(content, end="")
    else:
        given.out.write_text(content)


def _version(model: str) -> tuple[str, int | None]:
    """Name and version; None is the default. Raises ValueError."""
    name, at, version = model.partition("@")
    if at and not version.isdecimal():
        raise ValueError(f"model: {model!r} is no name or name@version")
    return name, int(version) if at else None


def _say(row: str) -> None:
    print(f"measuring {row}", file=sys.stderr, flush=True)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(","))


def _parser(settings: WorkerSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.evaluation", description=__doc__)
    parser.add_argument("model", help="name or name@version")
    parser.add_argument("--samplers", type=_names, help="those to measure, with commas between; all of the card if unset")
    parser.add_argument("--images", type=int, default=2000, help="images of each sampler and seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (%(default)s)")
    parser.add_argument("--oracle", action="store_true", help="add exact reweighting and, without any head, balanced classes")
    parser.add_argument("--out", type=Path, help="the JSON file to write; standard output if unset")
    parser.add_argument("--checkpoints", type=Path, default=settings.checkpoints, help="folder of published models (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
