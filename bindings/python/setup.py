"""A package into which the library was copied becomes a wheel of one platform and any Python 3."""

import os
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel


class BundlingDistribution(Distribution):
    def has_ext_modules(self):
        return True


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        return ("py3", "none", os.environ.get("WHEEL_PLATFORM") or super().get_tag()[2])


if any(Path(__file__).resolve().parent.glob("liblisa/liblisa.so*")):
    setup(distclass=BundlingDistribution, cmdclass={"bdist_wheel": PlatformWheel})
else:
    setup()
