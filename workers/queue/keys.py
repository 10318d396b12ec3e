"""Every Redis key and channel of ours, beside RQ's own, and the fields we add to RQ's job hash."""

PREFIX = "ebbtide"

RECENT = f"{PREFIX}:recent"  # sorted set: job ids by creation
BACKLOG = f"{PREFIX}:backlog"  # hash: queue -> chain-steps waiting in it
TURN = f"{PREFIX}:turn"  # hash: queue -> the turn it has come to: that taken last, but none past a job that still waits
MAINTENANCE = f"{PREFIX}:maintenance"  # lock: one worker at a time looks for abandoned jobs
SUBMITTED = f"{PREFIX}:submitted"  # channel: a job waits that a worker may want
OFFERS = f"{PREFIX}:offers"  # sorted set: workers that wait for a job, by the chains they have room for
ENDED = f"{PREFIX}:ended"  # channel: the ids of jobs that have ended, spaces between
REPLIES = f"{PREFIX}:replies"  # begins the channel of each process that waits for pictures: their bytes, see `workers/finishes.py`

# In RQ's job hash, which keeps fields it does not know:
CHAINS = "chains"  # images the job makes
COST = "cost"  # chain-steps, 0 once they no longer count as waiting
DECODES = "decodes"  # present where no chain runs: `prior`
EXPIRES_AT = "expires_at"  # Unix seconds; absent without a deadline
CALLER = "caller"  # who asked
REPLY = "reply"  # channel and name of the file that goes there as soon as the job has ended; absent where nobody waits
ENTERED_AT = "entered_at"  # Unix seconds of the submission
CANCEL_REQUESTED = "cancel_requested"  # set while the job runs; survives the worker
EXECUTION = "execution"  # the id of the execution that has it now, or had it last
BEGAN = "began"  # queue and worker of a job that was started as it was submitted: its first two events, told nowhere else
EVENTFUL = "eventful"  # present where a stream of events goes with the job


def turns(queue: str) -> str:
    """Sorted set: jobs that wait in a queue, by turn."""
    return f"{PREFIX}:turns:{queue}"


def quick(queue: str) -> str:
    """Sorted set: those of them that may not have to wait for room."""
    return f"{PREFIX}:quick:{queue}"


def record(queue: str) -> str:
    """What the records of all jobs of a queue have in common, while some are being written."""
    return f"{PREFIX}:record:{queue}"


def callers(queue: str) -> str:
    """Sorted set: callers of a queue by the turn of their next job, where that is later than anybody's."""
    return f"{PREFIX}:callers:{queue}"


def handed(worker: str) -> str:
    """Channel: jobs that a submission started for a worker that had offered to take them."""
    return f"{PREFIX}:handed:{worker}"


def events(job_id: str) -> str:
    """Stream of what happened to a job, but for its end and what `BEGAN` tells: its record says that."""
    return f"{PREFIX}:events:{job_id}"


def progress(job_id: str) -> str:
    """How far a running job is, as JSON."""
    return f"{PREFIX}:progress:{job_id}"


def artifact(job_id: str, name: str) -> str:
    """One file a job made."""
    return f"{PREFIX}:artifact:{job_id}:{name}"
