"""blockstore: memory for virtual machines, shared, patched and compressed behind a FUSE mount."""


def version() -> str:
    """The installed version. Looked up when asked for: what that imports takes 3 MB in processes that live long."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("blockstore")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
