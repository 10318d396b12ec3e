"""The Python client and the command, over HTTP to a real API."""

import json
import sys
from pathlib import Path

import httpx
import pytest

from service.client import Client, Refused, Unreachable
from service.command.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def ebbtide(address: str, api: httpx.Client):
    with Client(address) as client:
        yield client


def test_one_line_draws_and_saves(ebbtide: Client, painter, tmp_path: Path) -> None:
    picture = ebbtide.generate("toy", num_images=4, seed=7, mcmc={"steps": 3})
    picture.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)
    assert picture.seed == 7
    assert ebbtide.job(picture.job_id).job.mcmc.steps == 3


def test_a_job_can_be_submitted_followed_and_fetched(ebbtide: Client, painter) -> None:
    seen: list[str] = []
    job = ebbtide.wait(ebbtide.submit("toy", num_images=2).id, lambda event: seen.append(event.name))
    assert (job.status, seen) == ("finished", ["queued", "started", "progress", "end"])
    assert ebbtide.picture(job).png.startswith(PNG)
    assert ebbtide.image(job.id, 1).startswith(PNG)
    assert [recent.id for recent in ebbtide.jobs()] == [job.id]


def test_events_resume_where_a_stream_broke(address: str, api: httpx.Client, painter) -> None:
    class Breaking(httpx.HTTPTransport):
        """Cuts the first two event streams after their first event."""

        cuts = 2

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.url.path.endswith("/events") and self.cuts:
                self.cuts -= 1
                answer.stream = Cut(answer.stream)
            return answer

    class Cut(httpx.SyncByteStream):
        def __init__(self, stream: httpx.SyncByteStream) -> None:
            self._stream = stream

        def __iter__(self):
            yield next(iter(self._stream))
            raise httpx.ReadError("cut")

        def close(self) -> None:
            self._stream.close()

    with Client(address, transport=Breaking()) as ebbtide:
        names = [event.name for event in ebbtide.events(ebbtide.submit("toy").id)]
    assert names == ["queued", "started", "progress", "end"]


def test_waiting_for_what_is_over_already_returns(ebbtide: Client, painter) -> None:
    job_id = ebbtide.generate("toy").job_id
    assert ebbtide.wait(job_id).status == "finished"


def test_the_job_goes_on_when_the_api_stops_waiting(serve, settings, painter) -> None:
    impatient = serve(settings.model_copy(update={"wait_s": 0.001}))
    with Client(str(impatient.base_url)) as ebbtide:
        assert ebbtide.generate("toy").png.startswith(PNG)


def test_a_refusal_carries_its_problem(ebbtide: Client) -> None:
    with pytest.raises(Refused, match="unknown model") as refused:
        ebbtide.generate("nobody")
    assert refused.value.problem.errors[0].choices == ("toy",)


def test_nobody_there_is_said_so() -> None:
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(Unreachable, match="127.0.0.1:1"):
        nobody.models()


def test_words_of_a_proxy_are_no_crash() -> None:
    proxy = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>bad gateway</html>"))
    with Client(transport=proxy) as ebbtide, pytest.raises(Refused, match="502"):
        ebbtide.models()


class Command:
    """Runs `ebbtide` in this process."""

    def __init__(self, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("EBBTIDE_URL", address)

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._monkeypatch.setattr(sys, "argv", ["ebbtide", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def command(address: str, api: httpx.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(address, monkeypatch, capsys)


def test_generate_writes_a_png(command: Command, painter, tmp_path: Path) -> None:
    out = tmp_path / "digits.png"
    code, said, _ = command("generate", "toy", "-n", "4", "--seed", "7", "--steps", "5", "--step-size", "0.1", "-o", str(out))
    assert code == 0
    assert "seed 7" in said
    assert out.read_bytes().startswith(PNG)


def test_options_reach_the_kernel(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    options = ("--sampler", "ddls", "--kernel", "langevin", "--noise-scale", "0.5", "--temperature", "2", "--priority", "high")
    assert command("generate", "toy", *options, "-o", str(tmp_path / "out.png"))[0] == 0
    job = ebbtide.jobs()[0].job
    assert (job.mcmc.kernel, job.mcmc.noise_scale, job.mcmc.temperature, job.priority) == ("langevin", 0.5, 2, "high")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("generate", "nobody"), "choices: toy"),
        (("generate", "toy", "--step-size", "9"), "mcmc.step_size"),
        (("generate", "toy", "-n", "999"), "num_images"),
        (("jobs", "show", "unknown"), "no job 'unknown'"),
        (("jobs", "cancel", "unknown"), "no job 'unknown'"),
        (("train", "mine", "--family", "nobody"), "choices: lebm"),
        (("models", "--url", "http://127.0.0.1:1"), "no answer from"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(command: Command, words: tuple[str, ...], told: str) -> None:
    code, _, said = command(*words)
    assert code == 1
    assert told in said
    assert len(said.strip().splitlines()) == 1


def test_a_failed_job_is_one_line_and_writes_nothing(command: Command, painter, tmp_path: Path) -> None:
    painter.failure = "diverged: chain 3 at step [17]"
    code, _, said = command("generate", "toy", "-o", str(tmp_path / "out.png"))
    assert code == 1
    assert "chain 3 at step [17]" in said
    assert not (tmp_path / "out.png").exists()


def test_train_passes_options_on_and_lists_them(command: Command) -> None:
    code, _, said = command("train", "mine", "--set", "sigma=0.2")
    assert code != 0
    assert "options.sigma: unknown field (got 0.2)" in said
    assert "sigma=0.3" in command("train", "--help")[1].replace("\n", "")


def test_train_tells_what_it_published(command: Command, painter) -> None:
    code, said, _ = command("train", "mine", "--steps", "5")
    assert (code, said.split()[0]) == (0, "mine@1")


def test_models_and_jobs_are_listed(command: Command, painter, ebbtide: Client) -> None:
    assert "ddls*" in command("models")[1]
    job_id = ebbtide.generate("toy", num_images=3).job_id
    code, said, _ = command("jobs", "list")
    assert code == 0
    assert job_id in said
    assert json.loads(command("jobs", "show", job_id)[1])["status"] == "finished"


def test_a_queued_job_is_canceled(command: Command, ebbtide: Client) -> None:
    assert "canceled" in command("jobs", "cancel", ebbtide.submit("toy").id)[1]
