"""The house as DESIGN draws it: imports run one way, files stay small, the API never loads torch, nothing is unpickled."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "workers", "service")  # each may import itself and those before it

# What each part of a package may import of its own package; a part is a folder or a file beside the folders. Nothing else is allowed.
GROUND = {"jobs", "settings", "version", "health", "messages", "capacity", "training_lock", "computing", "assignments"}
GROUND |= {"bucket", "logs", "room", "tracing"}
PARTS: dict[str, dict[str, set[str]]] = {
    "models": {
        "registry": set(),
        "kernels": {"registry"},
        "noise": set(),
        "images": {"device"},
        "diagnostics": set(),
        "device": set(),
        "datasets": {"registry"},
        "targets": {"registry", "kernels"},
        "joint": {"device"},
        "descent": {"joint"},
        "cards": {"kernels", "targets"},
        "networks": {"costs", "device", "joint"},
        "checkpoints": {"cards"},
        "shared_checkpoints": {"cards", "checkpoints"},
        "sampling": {"device", "joint", "kernels", "targets"},
        "costs": set(),
        "estimates": {"calibration", "costs", "datasets", "families"},
        "families": {"registry", "cards", "costs", "datasets", "descent", "device", "joint", "kernels", "networks", "sampling", "targets"},
        "extractors": {"datasets", "descent"},
        "metrics": {"registry", "datasets", "device", "extractors"},
        "inference": {"cards", "checkpoints", "device", "families", "networks", "targets"},
        "calibration": {"cards", "datasets", "descent", "device", "families", "images", "metrics", "networks"},
        "training": {
            "calibration",
            "kernels",
            "targets",
            "cards",
            "checkpoints",
            "datasets",
            "device",
            "families",
            "images",
            "inference",
            "joint",
            "metrics",
            "sampling",
        },
    },
    "workers": {
        "settings": set(),
        "version": set(),
        "health": set(),
        "jobs": set(),
        "training_lock": set(),
        "room": set(),
        "bucket": {"settings"},
        "logs": {"settings"},
        "tracing": {"jobs", "version"},
        "assignments": set(),
        "computing": {"settings"},
        "capacity": set(),
        "messages": {"jobs", "capacity"},
        "queue": GROUND,
        "leases": GROUND | {"queue"},
        "engine": GROUND,
        "generation": GROUND | {"queue", "leases", "engine"},
        "training": GROUND | {"queue"},
        "evaluation": {"settings", "computing", "bucket"},
    },
    "service": {
        "settings": set(),
        "protocol": {"settings"},
        "admission": {"settings", "protocol"},
        "ordering": {"settings", "protocol", "admission"},
        "routes": {"settings", "protocol", "admission", "ordering"},
        "app": {"settings", "protocol", "admission", "routes"},
        "__main__": {"settings", "protocol", "app"},
        "client": {"protocol"},
        "command": {"client", "protocol", "settings"},
    },
}
# Libraries that only some parts may import at all, at any depth of a file.
BELONGS = {
    "torch": {"models", "workers/engine", "workers/computing.py", "workers/training"},
    "redis": {"workers/queue", "workers/leases", "workers/training"},
    "rq": {"workers/queue", "workers/leases", "workers/generation/worker.py", "workers/training"},
    "fastapi": {"service"},
    "starlette": {"service"},
}


def modules(*packages: str) -> list[Path]:
    return [path.relative_to(ROOT) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any depth and for the type checker too; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[str]:
    return (ast.unparse(node.func) for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call))


def test_packages_import_only_those_below_them() -> None:
    for path in modules(*PACKAGES):
        above = PACKAGES[PACKAGES.index(path.parts[0]) + 1 :]
        wrong = [name for name in imports(path) if name.split(".")[0] in (*above, "tests")]
        assert not wrong, f"{path} imports {wrong}"


def part(name: str) -> tuple[str, str] | None:
    """The package and the part of it that a dotted name or a file's path belongs to; None for what is outside or a package itself."""
    package, *rest = name.removesuffix(".py").replace("/", ".").split(".")
    return (package, rest[0]) if package in PARTS and rest and rest[0] != "__init__" else None


def test_parts_of_a_package_import_only_what_they_may() -> None:
    for path in modules(*PACKAGES):
        if (own := part(str(path))) is None:
            continue
        package, name = own
        assert name in PARTS[package], f"{path}: say in PARTS what {package}/{name} may import"
        may = PARTS[package][name] | {name}
        wrong = [found for found in imports(path) if (other := part(found)) and other[0] == package and other[1] not in may]
        assert not wrong, f"{path} imports {wrong}"


def test_what_parts_may_import_runs_one_way() -> None:
    for package, parts in PARTS.items():
        settled: set[str] = set()
        while left := set(parts) - settled:
            free = {name for name in left if parts[name] <= settled}
            assert free, f"{package}: {sorted(left)} import one another"
            settled |= free


def test_every_part_that_is_named_exists() -> None:
    for package, parts in PARTS.items():
        here = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        assert set(parts) | {"__init__"} == here | {"__init__"}


def test_no_files_import_one_another_in_a_circle() -> None:
    files = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in modules(*PACKAGES)}
    edges = {
        name: {found for full in imports(path) for found in (full, full.rpartition(".")[0]) if found in files} - {name}
        for name, path in files.items()
    }
    settled: set[str] = set()
    while left := set(edges) - settled:
        free = {name for name in left if edges[name] <= settled}
        assert free, f"some of {sorted(left)} import one another"
        settled |= free


def test_libraries_stay_where_they_belong() -> None:
    for path in modules(*PACKAGES):
        for library in {name.split(".")[0] for name in imports(path)} & set(BELONGS):
            rooms = BELONGS[library]
            assert any(str(path) == room or str(path).startswith(f"{room}/") for room in rooms), f"{path} imports {library}"


MOST_FILES = 14


def test_no_folder_is_crowded_and_each_says_what_lives_there() -> None:
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            files = [path for path in init.parent.iterdir() if path.is_file()]
            assert len(files) <= MOST_FILES, f"{init.parent.relative_to(ROOT)} holds {len(files)} files"
            assert ast.get_docstring(ast.parse(init.read_text())), f"{init.relative_to(ROOT)} does not say what lives there"


def test_the_maths_knows_no_redis_no_http_and_no_environment() -> None:
    for path in modules("models"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"redis", "rq", "fastapi", "starlette", "httpx"}, path
        assert path.name == "device.py" or "os.environ" not in (ROOT / path).read_text(), path


DEVICE_QUESTIONS = ("torch.cuda", "torch.mps", "torch.backends", ".is_cuda", "device.type")
# To be moved into models/device.py too.


def test_only_the_device_file_asks_which_device_there_is() -> None:
    for path in modules(*PACKAGES):
        written = {ast.unparse(node) for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Attribute)}
        asked = {name for name in written for question in DEVICE_QUESTIONS if f".{name}.".find(f"{question}.") >= 0}
        assert not asked or str(path) == "models/device.py", f"{path} asks {sorted(asked)}"


TORCHLESS = (
    "service.app",
    "service.command.cli",
    "workers.jobs",
    "workers.queue.broker",
    "workers.queue.artifacts",
    "workers.generation.assembly",
    "workers.training.worker",
    "service.command.up",
    "models.checkpoints",
    "models.families",
    "models.estimates",
    "models.targets",
    "models.metrics",
    "models.datasets",
    "models.calibration.settings",
)


def loads(name: str, library: str) -> bool:
    """Whether importing a module loads a library."""
    script = f"import sys, {name}; print('{library}' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return run.stdout == "True\n"


@pytest.mark.parametrize("name", TORCHLESS)
def test_what_the_api_and_a_workers_own_process_import_leaves_torch_unloaded(name: str) -> None:
    assert not loads(name, "torch")


def test_the_api_leaves_numpy_unloaded_too() -> None:
    assert not loads("service.app", "numpy")


def test_no_file_is_longer_than_300_lines() -> None:
    sources = [ROOT / path for path in modules(*PACKAGES, "tests")] + sorted((ROOT / "service").rglob("*.js"))
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    assert not {path: lines for path, lines in lengths.items() if lines > 300}


def test_no_function_is_longer_than_40_lines() -> None:
    functions = [
        (f"{path}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in modules(*PACKAGES)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [(name, lines) for name, lines in functions if lines > 40]


def test_nothing_is_pickled() -> None:
    for path in modules(*PACKAGES, "tests"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        assert not {"torch.load", "torch.save"} & set(calls(path)), f"{path}: weights and states are safetensors"


def test_every_module_says_what_it_promises() -> None:
    mute = [str(path) for path in modules(*PACKAGES) if not ast.get_docstring(ast.parse((ROOT / path).read_text()))]
    assert not mute


def test_no_name_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    named = {path for path in modules(*PACKAGES, "tests") if empty & {part.removesuffix(".py") for part in path.parts}}
    assert not named


def test_no_module_hides_one_of_the_standard_library() -> None:
    top = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not top & sys.stdlib_module_names
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_only_one_file_of_the_maths_asks_which_device_there_is() -> None:
    for path in modules("models"):
        asks = {
            word for word in ("torch.cuda", "device.type", "is_cuda", "torch.mps", "torch.backends") if word in (ROOT / path).read_text()
        }
        assert path.name == "device.py" or not asks, f"{path} asks {asks}"
