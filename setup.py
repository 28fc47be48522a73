"""Build of the C++ extension; everything else is declared in pyproject.toml."""

import os
import re
from functools import cache
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

SOURCES = sorted(source for source in glob("csrc/**/*.cpp", recursive=True) if not source.startswith("csrc/fuzz/"))
HEADERS = sorted(glob("csrc/**/*.h", recursive=True))


@cache
def newest_change(file: str) -> float:
    """When a file of csrc, or one that it includes, was written last."""
    with open(file, encoding="utf-8") as stream:
        included = {os.path.join("csrc", name) for name in re.findall(r'^#include "(.*)"', stream.read(), re.MULTILINE)}
    return max([os.path.getmtime(file), *map(newest_change, included)])


def needs_recompile(compiled: str, source: str) -> bool:
    """Whether an object file is missing, or older than its source, a header of it, or the flags here."""
    wanted = max(newest_change(source), os.path.getmtime("setup.py"))
    return not os.path.exists(compiled) or os.path.getmtime(compiled) <= wanted


ParallelCompile("ETTIN_BUILD_JOBS", default=0, needs_recompile=needs_recompile).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "megatron_ettin._native",
            SOURCES,
            include_dirs=["csrc"],
            depends=[*HEADERS, "setup.py"],
            cxx_std=17,
            extra_compile_args=["-O3", "-fno-math-errno", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
