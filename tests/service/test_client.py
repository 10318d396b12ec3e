"""The Python client, over HTTP to a real API."""

from pathlib import Path

import httpx
import pytest

from service.client import Client, Refused, Unreachable

PNG = b"\x89PNG\r\n\x1a\n"


def test_one_call_generates_and_saves(ebbtide: Client, painter, tmp_path: Path) -> None:
    picture = ebbtide.generate("toy", num_images=4, seed=7, mcmc={"steps": 3})
    picture.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)
    assert picture.seed == 7
    assert ebbtide.job(picture.job_id).job.mcmc.steps == 3


@pytest.mark.parametrize("count", [1, 3])
def test_images_come_one_by_one_where_asked_for(ebbtide: Client, painter, count: int) -> None:
    pictures = ebbtide.generate("toy", layout="images", num_images=count, seed=7)
    assert [picture.png for picture in pictures] == [ebbtide.image(pictures[0].job_id, index) for index in range(count)]
    assert {picture.seed for picture in pictures} == {7}


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


def test_comments_that_keep_a_stream_alive_are_no_events() -> None:
    stream = b"""event: queued\nid: 1-0\ndata: {}\n\n: ping\n\n: ping\n\nevent: end\nid: 2-0\ndata: {"status": "finished"}\n\n"""
    answer = httpx.Response(200, content=stream, headers={"Content-Type": "text/event-stream"})
    with Client(transport=httpx.MockTransport(lambda _: answer)) as ebbtide:
        assert [(event.id, event.name, event.data) for event in ebbtide.events("job")] == [
            ("1-0", "queued", {}),
            ("2-0", "end", {"status": "finished"}),
        ]


def test_waiting_for_a_finished_job_returns(ebbtide: Client, painter) -> None:
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


def test_an_address_without_an_api_is_unreachable() -> None:
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(Unreachable, match="127.0.0.1:1"):
        nobody.models()


def test_an_answer_of_a_proxy_is_a_refusal() -> None:
    proxy = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>bad gateway</html>"))
    with Client(transport=proxy) as ebbtide, pytest.raises(Refused, match="502"):
        ebbtide.models()
