"""What every route works with: broker, images, checkpoints, finishes and figures of one app."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Annotated, Self, TypeVar

from fastapi import Depends, Request

from models.checkpoints import Store
from service.admission.backlog import Backlog
from service.admission.coalescing import Coalescer
from service.protocol.errors import RETRY_SOON, Refusal
from service.protocol.metrics import ApiMetrics, QueueState
from service.settings import Settings
from workers.jobs import AnyJob, JobView
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker, Finishes, new_id
from workers.queue.submissions import AsyncSubmissions, Submission

T = TypeVar("T")
LOOK_LIMIT_S = 2.0  # a probe or a scrape waits no longer for Redis


class Parts:
    """Everything an app is built from; blocking calls leave the event loop through it."""

    def __init__(self, settings: Settings, *, broker: Broker, artifacts: Artifacts, store: Store, metrics: ApiMetrics) -> None:
        self.settings = settings
        self.broker = broker
        self.store = store
        self.metrics = metrics
        self.finishes = Finishes(settings.redis_url)
        self.closing = asyncio.Event()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="broker")
        self._submissions = AsyncSubmissions(broker.redis, settings.redis_url, broker.limits)
        self._submit = Coalescer[Submission, int](self._submissions)
        self._fetch = Coalescer[tuple[str, str], bytes | None](lambda wanted: self.off_loop(lambda: artifacts.get_each(wanted)))
        self._backlog = Backlog(self.queue_state, settings.max_backlog_chain_steps)
        self._worker_seen, self._looking_for_worker = float("-inf"), asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self.finishes)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()
        await self._submissions.close()
        self._threads.shutdown(wait=False)

    async def off_loop(self, call: Callable[[], T]) -> T:
        """A blocking call, made in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def enqueue(self, job: AnyJob, job_id: str | None = None, wanted: str | None = None) -> str:
        """Enqueues a job, together with those of other requests; its id. The file `wanted`, if small, comes with the news of its end.

        Raises Refusal where too much waits already.
        """
        submission = Submission(job, job_id or new_id(), f"{self.finishes.replies} {wanted}" if wanted else "")
        await self._backlog.admit(job, lambda: self._submit(submission))
        return submission.job_id

    async def job(self, job_id: str) -> JobView:
        """Everything known of a job. Raises UnknownJob."""
        return await self.off_loop(lambda: self.broker.view(job_id))

    async def image(self, job_id: str, name: str) -> bytes | None:
        """A file a job made; None where there is none (any more)."""
        return await self._fetch((job_id, name))

    async def require_worker(self) -> None:
        """Refuses where no generation worker was seen lately."""
        if self._saw_worker():
            return
        async with self._looking_for_worker:  # one look for all
            if self._saw_worker():
                return
            if not await self.off_loop(self._has_worker):
                detail = "no generation worker is alive; a job sent with Prefer: respond-async waits for one"
                raise Refusal("no-worker", detail, headers=RETRY_SOON)
            self._worker_seen = time.monotonic()

    def _saw_worker(self) -> bool:
        return time.monotonic() - self._worker_seen < self.settings.worker_look_s

    async def queue_state(self) -> QueueState | None:
        """Queues and workers now; None where Redis does not answer in time."""
        try:
            return await asyncio.wait_for(self.off_loop(self._queue_state), LOOK_LIMIT_S)
        except Exception:  # whatever it is, a scrape still wants the other figures
            return None

    def _has_worker(self) -> bool:
        return any(worker.kind == "generate" for worker in self.broker.workers())

    def _queue_state(self) -> QueueState:
        return QueueState(tuple(self.broker.queues()), tuple(self.broker.workers()))


async def _parts(request: Request) -> Parts:  # async, or FastAPI would ask a thread for it
    parts: Parts = request.app.state.parts
    return parts


ThisApp = Annotated[Parts, Depends(_parts)]
