"""Build of the C++ extension; everything else is declared in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

ParallelCompile("ETTIN_BUILD_JOBS", default=0, needs_recompile=lambda *_: True).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "megatron_ettin._native",
            sorted(glob("csrc/[!f]*/**/*.cpp", recursive=True)),
            include_dirs=["csrc"],
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            cxx_std=17,
            extra_compile_args=["-O3", "-fno-math-errno", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
