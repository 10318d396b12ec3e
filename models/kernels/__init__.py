"""Every kernel, one a file: the folder is the registry, and `AnyKernel` the union that requests are checked against."""

import importlib
import pkgutil
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise


def _kernel_in(module_name: str) -> type[Kernel]:
    """The kernel that a file of this folder defines; the class is named like the file, without underscores."""
    module = importlib.import_module(f"{__name__}.{module_name}")
    found = [k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Kernel) and k.__module__ == module.__name__]
    if len(found) != 1:
        raise ImportError(f"models/kernels/{module_name}.py must define one Kernel, not {len(found)}")
    return found[0]


_FILES = sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name != "base")
KERNELS: dict[str, type[Kernel]] = {kernel.model_fields["kernel"].default: kernel for kernel in map(_kernel_in, _FILES)}

if TYPE_CHECKING:
    AnyKernel = Kernel
else:  # each kernel keeps its own schema in /docs
    AnyKernel = Annotated[reduce(or_, KERNELS.values()), Field(discriminator="kernel")]

__all__ = ["KERNELS", "AnyKernel", "Chains", "Evaluated", "Info", "Kernel", "Noise"]
