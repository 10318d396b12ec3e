"""What the routes of one app work with: settings, broker, checkpoints, images, metrics."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from types import TracebackType
from typing import Annotated, Self, TypeVar

from fastapi import Depends, Request

from models.checkpoints import Store
from service.admission.backlog import Backlog, TrainingBacklog
from service.admission.callers import acting, may_see
from service.admission.coalescing import Coalescer
from service.admission.results import ResultLimits
from service.admission.worker_check import WorkerCheck
from service.protocol.errors import IMAGES_FULL, REDIS_FULL, RETRY_SOON, Refusal
from service.protocol.metrics import ApiMetrics, QueueState
from service.settings import Settings
from workers import logs
from workers.jobs import AnyJob, JobView
from workers.queue import holdings
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker, BrokerFull, BrokerUnavailable, Completions, UnknownJob, new_id
from workers.queue.submissions import RECENT_KEPT, Answer, AsyncSubmissions, Submission
from workers.room import RoomCollector
from workers.tracing import Tracing

log = logging.getLogger(__name__)
T = TypeVar("T")
PAGE = 200  # jobs looked at together for a list
QUEUE_STATE_LIMIT_S = 2.0  # a probe or a scrape waits no longer for Redis


class Dependencies:
    """Opened and closed with the app; `off_loop` keeps blocking calls off the event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: Broker,
        artifacts: Artifacts,
        store: Store,
        metrics: ApiMetrics,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.broker = broker
        self.store = store
        self._artifacts = artifacts
        self.metrics, self._tracing = metrics, tracing
        self._room = RoomCollector({"checkpoints": settings.checkpoints} | ({"images": images} if (images := artifacts.folder) else {}))
        metrics.registry.register(self._room)
        self.completions = Completions(settings.redis_url)
        self.closing = asyncio.Event()
        self.worker_check = WorkerCheck(lambda: self.off_loop(self._has_worker), settings.worker_look_s)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="broker")
        self.results = ResultLimits(settings, store)
        self._submissions = AsyncSubmissions(broker.redis, settings.redis_url, broker.limits, self.results.kept)
        self._submit = Coalescer[Submission, Answer](self._submissions)
        self._fetch = Coalescer[tuple[str, str], bytes | None](lambda names: self.off_loop(lambda: artifacts.get_each(names)))
        self._backlog = Backlog(self.queue_state, settings.max_backlog_chain_steps)
        self._training_backlog = TrainingBacklog(
            self.queue_state, most_jobs=settings.max_training_backlog, most_tflop=settings.max_training_backlog_tflop
        )

    async def __aenter__(self) -> Self:
        await self.completions.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.completions.__aexit__(kind, error, trace)
        await self._submissions.close()
        self._threads.shutdown(wait=False)
        if self._tracing:
            self._tracing.close()

    async def off_loop(self, call: Callable[[], T]) -> T:
        """Runs a blocking call in a thread, which knows the key that acts."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, call)

    async def enqueue(self, job: AnyJob, job_id: str | None = None, wanted: str | None = None) -> str:
        """Enqueues a job in one round trip with the jobs of other requests; returns its id.

        `wanted` names a file of the job: a small one arrives with the message that the job has ended.
        Raises Refusal where the backlog is full, or where too many results are kept.
        """
        self.require_room_for_images()
        reply = f"{self.completions.replies} {wanted}" if wanted else ""
        job_id = job_id or new_id()
        logs.job.set(job_id)
        if self._tracing:
            job = job.model_copy(update={"traceparent": self._tracing.traceparent()})
        share = await self._share_of(job)
        submission = Submission(job, job_id, reply, self.results.expected(job), self.results.most(share))

        async def submit() -> int:
            answer = await self._submit(submission)
            self.results.check(answer, share)
            log.debug("accepted %s", job.describe())
            return answer.backlog

        backlog = self._training_backlog if job.handler else self._backlog
        await backlog.admit(job, submit)
        return submission.job_id

    async def _share_of(self, job: AnyJob) -> float | None:
        """The share of the key that asks. Raises Refusal where its jobs would take more of the backlog."""
        key = acting.get()
        if key is None or key.share is None:
            return None
        if job.cost:
            most = int(key.share * self.settings.max_backlog_chain_steps)
            waiting = await self.off_loop(lambda: holdings.waiting_of(self.broker.redis, key.name))
            if waiting and waiting + job.cost > most:
                detail = f"jobs of the key {key.name!r} wait for {waiting} chain-steps, and its share of the backlog is {most}"
                raise Refusal("too-busy", detail, headers=RETRY_SOON)
        return key.share

    async def job(self, job_id: str) -> JobView:
        """Status, progress and result of a job. Raises UnknownJob, also for a job of another key."""
        view = await self.off_loop(lambda: self.broker.view(job_id))
        if not may_see(view):
            raise UnknownJob(job_id)
        return view

    async def recent(self, limit: int, wanted: Callable[[JobView], bool], after: str | None = None) -> list[JobView]:
        """The last wanted jobs that the caller may see, newest first, of those before the job `after`. Raises UnknownJob."""
        found: list[JobView] = []
        for first in range(0, RECENT_KEPT, PAGE):
            views = await self.off_loop(lambda first=first: self.broker.recent(PAGE, first, after))  # type: ignore[misc]
            found += (view for view in views if may_see(view) and wanted(view))
            if len(found) >= limit:
                break
        return found[:limit]

    async def discard(self, job_id: str) -> JobView:
        """Deletes the files of a job that is over. Raises UnknownJob, or Refusal where it is not over."""
        view = await self.job(job_id)
        if not view.status.over:
            raise Refusal("not-over", f"the job is {view.status}; cancel it first", job=f"/jobs/{job_id}")
        await self.off_loop(lambda: holdings.discard(self.broker.redis, self._artifacts, view))
        return view

    async def cancel(self, job_id: str) -> JobView:
        """Cancels a job, queued or running. Raises UnknownJob."""
        await self.job(job_id)
        return await self.off_loop(lambda: self.broker.cancel(job_id))

    async def image(self, job_id: str, name: str) -> bytes | None:
        """A file of a job; None where there is none or it is no longer kept. Raises UnknownJob for a job of another key."""
        if acting.get() is not None:
            await self.job(job_id)
        return await self._fetch((job_id, name))

    async def require_room(self) -> None:
        """Raises Refusal where Redis or the store of images has no room."""
        try:
            await self.off_loop(self.broker.require_room)
        except BrokerFull:
            raise Refusal("redis-full", REDIS_FULL, headers=RETRY_SOON) from None
        except BrokerUnavailable:
            raise Refusal("redis-away", "Redis accepts no writes", headers=RETRY_SOON) from None
        self.require_room_for_images()

    def require_room_for_images(self) -> None:
        """Raises Refusal where the disk of the images is full."""
        if not self._artifacts.has_room():
            raise Refusal("images-full", IMAGES_FULL, headers=RETRY_SOON)

    async def queue_state(self) -> QueueState | None:
        """Queues and workers now; None where Redis does not answer in time."""
        try:
            return await asyncio.wait_for(self.off_loop(self._queue_state), QUEUE_STATE_LIMIT_S)
        except Exception:  # a scrape still gets the other figures
            return None

    async def measure(self) -> None:
        """Brings the figures up to date that a scrape asks for."""
        queues = self.metrics.queues
        queues.state = await self.queue_state()
        queues.store = None
        with suppress(Exception):  # a scrape still gets the other figures
            if queues.state is not None:
                queues.store = await asyncio.wait_for(self.off_loop(lambda: holdings.held(self.broker.redis)), QUEUE_STATE_LIMIT_S)
        await self.off_loop(self._room.look)

    def _queue_state(self) -> QueueState:
        return QueueState(tuple(self.broker.queues()), tuple(self.broker.workers()))

    def _has_worker(self) -> bool:
        alive = any(worker.kind == "generate" for worker in self.broker.workers())
        if not alive:
            self.broker.require_room()  # a worker cannot show that it is alive where Redis is full
        return alive


async def _dependencies(request: Request) -> Dependencies:  # async: FastAPI runs plain functions in a thread
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


Injected = Annotated[Dependencies, Depends(_dependencies)]
