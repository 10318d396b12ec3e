"""Every Redis key and channel of ours, beside RQ's own, and the fields we add to RQ's job hash."""

PREFIX = "ebbtide"

RECENT = f"{PREFIX}:recent"  # sorted set: job ids by creation
BACKLOG = f"{PREFIX}:backlog"  # hash: queue -> chain-steps waiting in it
MAINTENANCE = f"{PREFIX}:maintenance"  # lock: one worker at a time looks for abandoned jobs
SUBMITTED = f"{PREFIX}:submitted"  # channel: an empty queue has got a job
ENDED = f"{PREFIX}:ended"  # channel: the ids of jobs that have ended, spaces between

# In RQ's job hash, which keeps fields it does not know:
CHAINS = "chains"  # images the job makes
COST = "cost"  # chain-steps, 0 once they no longer count as waiting
DECODES = "decodes"  # present where no chain runs: `prior`
EXPIRES_AT = "expires_at"  # Unix seconds; absent without a deadline
CANCEL_REQUESTED = "cancel_requested"  # set while the job runs; survives the worker


def events(job_id: str) -> str:
    """Stream of what happened to a job."""
    return f"{PREFIX}:events:{job_id}"


def progress(job_id: str) -> str:
    """How far a running job is, as JSON."""
    return f"{PREFIX}:progress:{job_id}"


def artifact(job_id: str, name: str) -> str:
    """One file a job made."""
    return f"{PREFIX}:artifact:{job_id}:{name}"
