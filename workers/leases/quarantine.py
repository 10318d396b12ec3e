"""Quarantine: jobs whose worker died twice while other jobs ran beside them run alone, as any of them may be the cause.

`recovery` puts them into a queue of their own. A worker takes one when it runs nothing else, and takes no other job until that one has
ended. While jobs wait in quarantine, the worker gives them and all others about the same time, so that neither starve.
"""

import time
from collections.abc import Mapping, Sequence

from rq import Queue

from workers.capacity import Room
from workers.leases.leases import Leases, Taken


class Quarantine:
    """Chooses what a worker takes next: jobs that run together, from the `shared` queues, or one from the queue `alone`."""

    def __init__(self, leases: Leases, shared: Sequence[Queue], alone: Queue) -> None:
        self.alone = alone
        self._leases, self._shared = leases, shared
        self.waiting = 0  # jobs in quarantine, when last noted
        self._began_at: float | None = None  # when the job in quarantine that runs now was taken
        self._others_until = 0.0  # until then all others go first

    def note_waiting(self, waiting: int) -> None:
        """Notes how many jobs wait in quarantine; the worker's time is shared from the first one on."""
        if waiting and not self.waiting:
            self._others_until = max(self._others_until, time.monotonic())
        self.waiting = waiting

    def closed(self, running: Mapping[str, Taken]) -> bool:
        """Whether no job may be added to those running, because one in quarantine runs or is the next to run."""
        return bool(running) and (self._due or next(iter(running.values())).queue == self.alone.name)

    def take(self, room: Room, *, idle: bool, offering: bool = False) -> list[Taken]:
        """Takes shared jobs or, in an idle worker, a job in quarantine; alternately where both wait.

        With `offering`, submissions may send jobs later: see `Leases.take`.
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
        return self._leases.take(self._shared, room, offering=offering and not self.waiting)

    def _take_alone(self) -> list[Taken]:
        taken = self._leases.take_one(self.alone)
        if taken:
            self._began_at = time.monotonic()
        else:
            self.note_waiting(0)
        return taken

    def _settle(self) -> None:
        """Gives the others as much time as the last job in quarantine took, less what they had before it."""
        if self._began_at is not None:
            now, took = time.monotonic(), time.monotonic() - self._began_at
            self._others_until = min(self._others_until + 2 * took, now + took)
            self._began_at = None
