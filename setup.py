"""Finds the packages; everything else is in setup.cfg."""

from setuptools import find_packages, setup

# The binaries live in the two top-level folders of a clone and are installed inside the package.
setup(
    packages=[
        *find_packages(include=["panoptic_tf", "panoptic_tf.*"]),
        "panoptic_tf.experiments",
        "panoptic_tf.export",
    ]
)
