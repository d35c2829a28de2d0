"""What pyproject.toml cannot say yet: a library in C, built where there is a compiler."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("precompute._split", ["precompute/native/split.c"],
                             extra_compile_args=["-O3"], optional=True)])
