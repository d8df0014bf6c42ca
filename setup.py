"""Kept for `pip install -e .` with older tools; all metadata is in pyproject.toml."""

from setuptools import setup

setup()
