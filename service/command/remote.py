"""The commands that send requests to an API; they need nothing but the client."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from models.calibration.settings import METHODS
from service.client import DEFAULT_ADDRESS, Client, ClientError
from service.command import many
from service.command.checkpoints import app as models_app
from service.command.kernel_settings import list_settings, parse_settings
from service.command.options import Address, AsJson
from service.command.output import Canceled, err, fail, failure, listed, out, told
from service.protocol.schemas import JobList, JobReply
from workers.jobs import CalibrateResult, Event, Progress, Status, TrainResult
from workers.training.options import describe_options
from workers.version import version

app = typer.Typer(no_args_is_help=True, help="Samples images from GANs and energy-based models.")
jobs_app = typer.Typer(no_args_is_help=True, help="Lists, shows and cancels jobs.")
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app)
Promote = Annotated[bool, typer.Option("--promote", help="Make the new version the default.")]
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


def main() -> None:
    """Entry point: what goes wrong is printed as one line, with exit code 1, or 130 after Ctrl-C."""
    try:
        app()
    except Canceled as error:
        fail(error, INTERRUPTED)
    except (ClientError, OSError) as error:
        fail(error)


def _tell_version(wanted: bool) -> None:
    if wanted:
        out.print(version(), highlight=False)
        raise typer.Exit


@app.callback()
def ebbtide(
    shown: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Samples images from GANs and energy-based models."""


@app.command(epilog=list_settings())
def generate(  # typer makes an option of each parameter
    model: Annotated[str, typer.Argument(help="A checkpoint: name or name@version.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The PNG to write; - for standard output; a folder, such as many/, for any number.")
    ] = "out.png",
    images: Annotated[int, typer.Option("--images", "-n", help="Number of images.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Default: random; it is printed.")] = None,
    classes: Annotated[
        list[int] | None, typer.Option("--class", help="Class of the images; repeated, they take turns. Default: drawn by the seed.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="Default: the checkpoint's default sampler.")] = None,
    kernel: Annotated[str | None, typer.Option(help="Default: the checkpoint's default kernel.")] = None,
    steps: Annotated[int | None, typer.Option(help="Transitions of each chain.")] = None,
    step_size: Annotated[float | None, typer.Option(help="Step size of the kernel.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another kernel setting, listed below; may be repeated.")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    shards: Annotated[bool, typer.Option("--shards", help="In a folder: WebDataset shards instead of PNG files.")] = False,
    as_json: AsJson = False,
    url: Address = DEFAULT_ADDRESS,
) -> None:
    """Samples images and writes them as one PNG, or one by one into a folder."""
    path, to_stdout = Path(output), output == "-"
    into_folder = output.endswith("/") or path.is_dir()
    _refuse_output(output, into_folder=into_folder, shards=shards, as_json=as_json)
    mcmc = parse_settings(setting or (), {"kernel": kernel, "steps": steps, "step_size": step_size})
    settings = _given(seed=seed, class_=classes or None, sampler=sampler, mcmc=mcmc or None, priority=priority)
    with Client(url) as client:
        if into_folder:
            many.fill(client, path, model, images, settings, shards=shards, as_json=as_json)
            return
        job = _followed(client, client.submit(model, num_images=images, **settings))
        picture = client.picture(job)
    if to_stdout:
        sys.stdout.buffer.write(picture.png)
        sys.stdout.buffer.flush()
        return
    picture.save(path)
    told(job, f"{output}: {images} x {model}, seed {picture.seed}", as_json)


def _refuse_output(output: str, *, into_folder: bool, shards: bool, as_json: bool) -> None:
    """Raises ClientError where what is asked for cannot be written there."""
    if shards and not into_folder:
        raise ClientError("--shards: --output must be a folder, such as many/")
    if output != "-" and not into_folder and not Path(output).parent.is_dir():
        raise ClientError(f"--output: there is no folder {Path(output).parent}")
    if output == "-" and as_json:
        raise ClientError("--json and --output -: both would go to standard output")


@app.command()
def replay(
    picture: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A PNG that Ebbtide made.")], url: Address = DEFAULT_ADDRESS
) -> None:
    """Makes a picture again from the request it carries, and says whether all its bytes are the same."""
    with Client(url) as client:
        made = client.replay(picture.read_bytes())
    out.print(f"{picture}: made again, the same {len(made.png)} bytes, seed {made.seed}", highlight=False)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    family: Annotated[str, typer.Option()] = "sngan",
    dataset: Annotated[str, typer.Option(help="Such as digits, mnist:without-1 or folder:NAME.")] = "digits",
    steps: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the widest layers.")] = None,
    latent_size: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="Default: random; it is printed.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Times FID to validation is measured; the best weights are published.")] = None,
    calibrate: Annotated[bool | None, typer.Option(help="Calibrate afterwards, where the family has samplers that need it.")] = None,
    promote: Promote = False,
    given: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=describe_options())] = None,
    as_json: AsJson = False,
    url: Address = DEFAULT_ADDRESS,
) -> None:
    """Trains a model and publishes it as a new version."""
    settings = _given(steps=steps, batch_size=batch_size, width=width, latent_size=latent_size, seed=seed)
    settings |= _given(evaluations=evaluations, calibrate=calibrate, promote=promote)
    settings["options"] = parse_settings(given or [], {})
    with Client(url) as client:
        job = _followed(client, client.train(name, family, dataset, **settings))
    if not isinstance(job.result, TrainResult):
        raise ClientError(failure(job))
    told(job, f"{job.result.model}@{job.result.version} in {job.result.seconds:.0f} s{_unless_default(job.result)}", as_json)


@app.command()
def calibrate(
    name: Annotated[str, typer.Argument(help="A checkpoint: name or name@version.")],
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}; default: {next(iter(METHODS))}.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Default: the one it was trained on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: random; the card names it.")] = None,
    promote: Promote = False,
    given: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Option of the method, repeatable.")] = None,
    as_json: AsJson = False,
    url: Address = DEFAULT_ADDRESS,
) -> None:
    """Fits a model's density ratio anew and, if samples get better by it, publishes a new version."""
    settings = _given(method=method, dataset=dataset, seed=seed, promote=promote)
    settings["options"] = parse_settings(given or [], {})
    with Client(url) as client:
        job = _followed(client, client.calibrate(name, **settings))
    if not isinstance(job.result, CalibrateResult):
        raise ClientError(failure(job))
    done = job.result
    gain = f"FID {done.fid_prior:g} -> {done.fid_reweighted:g} by reweighting"
    told(job, f"{done.model}@{done.version}: {gain}{_unless_default(done)}", as_json)


@jobs_app.command("list")
def jobs_list(
    limit: Annotated[int, typer.Option("-n", min=1, max=200)] = 20,
    status: Annotated[list[str] | None, typer.Option(help="Only jobs in this status; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs that sample or make this model.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind, such as generate or train.")] = None,
    as_json: AsJson = False,
    url: Address = DEFAULT_ADDRESS,
) -> None:
    """Lists recent jobs, newest first."""
    with Client(url) as client:
        found = client.jobs(limit, **_given(status=status or None, model=model, kind=kind))
    if as_json:
        out.print_json(JobList(jobs=found).model_dump_json(exclude_none=True))
        return
    rows = [(job.id, str(job.status), job.job.describe(), _describe(job.progress) if job.progress else "") for job in found]
    listed(("job", "status", "request", "progress"), rows)


@jobs_app.command("show")
def jobs_show(job_id: str, url: Address = DEFAULT_ADDRESS) -> None:
    """Prints everything known of a job, as JSON."""
    with Client(url) as client:
        out.print_json(client.job(job_id).model_dump_json(exclude_none=True))


@jobs_app.command("follow")
def jobs_follow(job_id: str, as_json: AsJson = False, url: Address = DEFAULT_ADDRESS) -> None:
    """Shows the progress of a job until it is over; Ctrl-C leaves it running."""
    with Client(url) as client:
        job = _followed(client, client.job(job_id), cancels=False)
    told(job, str(job.status), as_json)


@jobs_app.command("cancel")
def jobs_cancel(job_id: str, as_json: AsJson = False, url: Address = DEFAULT_ADDRESS) -> None:
    """Cancels a queued or running job."""
    with Client(url) as client:
        job = client.cancel(job_id)
    told(job, str(job.status) if job.status.over else "stopping", as_json)


@jobs_app.command("discard")
def jobs_discard(job_id: str, as_json: AsJson = False, url: Address = DEFAULT_ADDRESS) -> None:
    """Deletes the images and other files of a job that is over."""
    with Client(url) as client:
        told(client.discard(job_id), "its files are deleted", as_json)


def _unless_default(result: TrainResult | CalibrateResult) -> str:
    """What to do for a new version to be used."""
    if result.default_version in (None, result.version):
        return ""
    return f"; @{result.default_version} stays the default until `ebbtide promote {result.model}@{result.version}`"


def _followed(client: Client, job: JobReply, *, cancels: bool = True) -> JobReply:
    """Shows a job's progress until it is over; Ctrl-C cancels it, unless `cancels` is false."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn())
    try:
        with Bar(*columns, console=err, transient=True) as progress:
            task = progress.add_task("waiting", total=None)
            ended = client.wait(job.id, lambda event: _show(progress, task, event))
    except KeyboardInterrupt:
        if not cancels:
            raise Canceled("the job goes on") from None
        client.cancel(job.id)
        raise Canceled("canceled") from None
    if ended.status is not Status.FINISHED:
        raise ClientError(failure(ended))
    return ended


def _show(progress: Bar, task: TaskID, event: Event) -> None:
    match event.name:
        case "started":
            progress.update(task, description="running")
        case "progress":
            stage, done, total = (event.data.get(key) for key in ("stage", "done", "total"))
            progress.update(task, description=str(stage or "running"), completed=_number(done), total=_number(total))
        case "note":
            progress.console.print(str(event.data.get("text")), markup=False, highlight=False)
        case "metrics":
            figures = (f"{name} {value:.3g}" for name, value in event.data.items() if isinstance(value, float) and name != "step")
            progress.update(task, description=" ".join(("training", *figures)))


def _describe(progress: Progress) -> str:
    return f"{progress.stage or ''} {progress.done}/{progress.total}".strip()


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
