"""The house as DESIGN draws it: imports run one way, files stay small, the API never loads torch, nothing is unpickled."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "workers", "service")  # each may import itself and those before it

# Inside models, lowest first; names of one layer may not import each other.
LAYERS = (
    ("kernels", "noise", "images"),
    ("cards", "targets"),
    ("checkpoints", "datasets", "diagnostics", "networks", "sampling"),
    ("families", "metrics"),
    ("prepared", "training_state", "measurement", "calibration"),
    ("publication",),
    ("trainer",),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


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


def layer(name: str) -> str | None:
    """The part of models that a dotted name or a file's path belongs to; None for what is outside or models itself."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == "models" and len(parts) > 1 and parts[1] != "__init__" else None


def test_inside_models_imports_run_downward() -> None:
    for path in modules("models"):
        own = layer(str(path))
        if own is None:
            continue
        assert own in RANKS, f"{path}: give {own!r} its place in LAYERS"
        wrong = [name for name in imports(path) if (other := layer(name)) and other != own and RANKS[other] >= RANKS[own]]
        assert not wrong, f"{path} imports {wrong}, which stand beside or above it"


def test_the_maths_knows_no_redis_no_http_and_no_environment() -> None:
    for path in modules("models"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"redis", "rq", "fastapi", "starlette", "httpx"}, path
        assert "os.environ" not in (ROOT / path).read_text(), path


TORCHLESS = (
    "service.app",
    "workers.jobs",
    "workers.broker",
    "workers.artifacts",
    "workers.generation",
    "models.checkpoints",
    "models.families",
    "models.datasets",
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
