"""`python -m blockstore` is `blockstore`."""

from blockstore.cli.main import run

if __name__ == "__main__":
    run()
