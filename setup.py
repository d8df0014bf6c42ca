"""The packages of the wheel; all other metadata is in pyproject.toml.

Only `picjax` is installed at the top level: `configs/` becomes `picjax.configs`, so that
its files also work without a checkout. `bench/` and `tests/` are not installed.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Leaves out picjax/configs.py, which only a checkout needs."""

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [m for m in modules if m[:2] != ("picjax", "configs")]


setup(
    packages=[*find_packages(include=["picjax", "picjax.*"]), "picjax.configs"],
    package_dir={"picjax.configs": "configs"},
    cmdclass={"build_py": BuildPy},
)
