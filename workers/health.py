"""`python -m workers.health PORT`: whether the worker on this machine and its engine still turn. Containers ask; it needs Python alone."""

import sys
from urllib.request import ProxyHandler, build_opener

TOO_LONG_S = 60.0  # loading a large checkpoint, or waiting for a Redis that is silent, takes less
AGE = "ebbtide_loop_age_seconds"


def main() -> None:
    """Exits with the reason where a thread is stuck, or where the worker does not answer."""
    sys.exit(trouble(int(sys.argv[1])))


def trouble(port: int) -> str | None:
    """What is wrong with the worker whose metrics are on `port`; None where it is well."""
    try:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=3) as answer:
            page = answer.read().decode()
    except OSError as error:
        return f"no page of metrics on port {port}: {error}"
    ages = {name: float(value) for name, _, value in (line.rpartition(" ") for line in page.splitlines()) if name.startswith(AGE)}
    if not ages:
        return f"the page of metrics on port {port} does not tell of {AGE}"
    stuck = [f"{name} {age:.0f}" for name, age in ages.items() if age > TOO_LONG_S]
    return "stuck: " + ", ".join(stuck) if stuck else None


if __name__ == "__main__":
    main()
