"""What pyproject.toml cannot say: the C core on the CPU is built with the package."""

from setuptools import setup

setup(cffi_modules=["collector/build_replay.py:builder"])
