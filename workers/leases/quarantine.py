"""Jobs whose worker died twice while others ran beside them: nobody knows who it was, so each runs alone from then on.

They wait in a queue of their own, where `rq_recovery` puts them. A worker takes one when it runs nothing, and nothing else until it is
over. While some wait, they and all others have about the same time of the worker: neither starves.
"""

import time
from collections.abc import Mapping, Sequence

from rq import Queue

from workers.capacity import Room
from workers.leases.leases import Bulk, Taken


class Quarantine:
    """What one worker takes next: jobs that run together from the `shared` queues, or one that has to run alone."""

    def __init__(self, bulk: Bulk, shared: Sequence[Queue], alone: Queue) -> None:
        self.alone = alone
        self._bulk, self._shared = bulk, shared
        self.waiting = 0  # jobs that have to run alone, when last told
        self._began_at: float | None = None  # when the job was taken that runs alone
        self._others_until = 0.0  # until then all others go first

    def told(self, waiting: int) -> None:
        """How many jobs wait to run alone; from the first one on, time is shared."""
        if waiting and not self.waiting:
            self._others_until = max(self._others_until, time.monotonic())
        self.waiting = waiting

    def closed(self, running: Mapping[str, Taken]) -> bool:
        """Whether nothing may join what runs: a job that has to run alone runs, or waits for the others to be done."""
        return bool(running) and (self._due or next(iter(running.values())).queue == self.alone.name)

    def take(self, room: Room, *, idle: bool, offering: bool = False) -> list[Taken]:
        """Starts what fits beside what runs, or, where nothing runs, what has to run alone; in turn where both wait.

        With `offering`, jobs may be sent later where nothing was found: see `Bulk.take`.
        """
        if not idle:
            return self._take_shared(room, offering)
        self._settle()
        if self._due:
            return self._take_alone() or self._take_shared(room, offering)
        return self._take_shared(room, offering) or self._take_alone()

    @property
    def _due(self) -> bool:
        return self.waiting > 0 and time.monotonic() >= self._others_until

    def _take_shared(self, room: Room, offering: bool) -> list[Taken]:
        return self._bulk.take(self._shared, room, offering=offering and not self.waiting)

    def _take_alone(self) -> list[Taken]:
        taken = self._bulk.take_one(self.alone)
        if taken:
            self._began_at = time.monotonic()
        else:
            self.told(0)
        return taken

    def _settle(self) -> None:
        """Others are owed the time that the last job had alone, but for what they had before."""
        if self._began_at is not None:
            now, took = time.monotonic(), time.monotonic() - self._began_at
            self._others_until = min(self._others_until + 2 * took, now + took)
            self._began_at = None
