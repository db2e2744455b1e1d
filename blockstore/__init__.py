"""blockstore: memory for virtual machines, shared, patched and compressed behind a FUSE mount."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("blockstore")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
