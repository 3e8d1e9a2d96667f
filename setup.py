"""What pyproject.toml cannot say: some of it is C, built with the package."""

from setuptools import setup

setup(cffi_modules=["collector/build_core.py:replay", "collector/build_core.py:lines"])
