"""What pyproject.toml cannot say yet: a library in C, built where there is a compiler."""

from setuptools import Extension, setup

NATIVE = "precompute/native"

setup(ext_modules=[Extension(
    "precompute._split", [f"{NATIVE}/linear.c", f"{NATIVE}/attention.c"],
    depends=[f"{NATIVE}/tiles.h"], extra_compile_args=["-O3"], optional=True)])
