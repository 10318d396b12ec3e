"""Every kernel, one a file: the folder is the registry, and `AnyKernel` the union that requests are checked against."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise, tempered
from models.registry import classes

KERNELS: dict[str, type[Kernel]] = classes(__name__, __path__, Kernel)

if TYPE_CHECKING:
    AnyKernel = Kernel
else:  # each kernel keeps its own schema in /docs
    AnyKernel = Annotated[reduce(or_, KERNELS.values()), Field(discriminator="kernel")]

__all__ = ["KERNELS", "AnyKernel", "Chains", "Evaluated", "Info", "Kernel", "Noise", "tempered"]
