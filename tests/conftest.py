"""Fixtures of all tests that mount: workspaces under /dev/shm, and a process of its own for each such test.

Whatever touches a mount may hang in the kernel when the daemon does. So a test marked `mount` runs in a child process
(tests/daemon/lab.py), with `@pytest.mark.mount(timeout_s=...)` as its limit, and the fixtures here touch no mount.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from blockstore.store import domains
from tests import suite
from tests.daemon.lab import LOGS, Lab, Mounted, apart, run
from tests.daemon.logs import unannounced
from tests.store.closed import closed_stores as closed_stores
from tests.store.seeds import Seeds

sys.dont_write_bytecode = False
"""Whatever PYTHONDONTWRITEBYTECODE says: to compile all tests anew takes each of pytest's processes ten seconds."""

TEST_S = 300.0
"""For a test that mounts; most take seconds. It ends one that hangs, before pytest does (pyproject.toml)."""

FAILED = pytest.StashKey[bool]()

# For all hypothesis tests: how fast the machine is, and what failed on it before, decides nothing. In CI the examples
# are the same in each run.
settings.register_profile(
    "suite",
    deadline=None,
    database=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Whoever starts the tests in the background has these ignored, and so would all that the tests start."""
    suite.register(config)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget what the test before expected."""
    LOGS.expected.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are marked `mount` in a child process."""
    marker = pyfuncitem.get_closest_marker("mount")
    if marker is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    errors: list[str] = []
    try:
        apart(lambda: pyfuncitem.obj(**arguments), marker.kwargs.get("timeout_s", TEST_S), errors)
    except pytest.fail.Exception:
        pyfuncitem.stash[FAILED] = True
        pyfuncitem.add_report_section("call", "errors in logs", "\n".join(errors))
        raise
    judge(pyfuncitem, errors)
    return True


def judge(node: pytest.Item, errors: list[str]) -> None:
    """Fails the test if there are errors in logs that it did not announce. One that has failed says enough."""
    patterns = [*LOGS.expected, *(pattern for marker in node.iter_markers("logs") for pattern in marker.args)]
    found = unannounced(errors, patterns)
    if found and not node.stash.get(FAILED, False):
        node.stash[FAILED] = True
        pytest.fail("errors in logs that the test did not announce:\n" + "\n".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def seeds(monkeypatch: pytest.MonkeyPatch) -> Seeds:
    """The seed of a domain decides which blocks are seen to be alike: with new ones in each run, a test would take
    another path each time, and fail now and then. The processes of a mount have seeds that nobody knows, as ever."""
    same = Seeds()
    monkeypatch.setattr(domains, "secrets", same)
    return same


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A workspace that makes mounts, and leaves nothing behind."""
    workspace = Lab()
    try:
        yield workspace
    finally:
        workspace.close()
    judge(request.node, LOGS.errors())


@pytest.fixture
def mounted(lab: Lab) -> Mounted:
    """A fresh mount."""
    return lab.mount()


@pytest.fixture
def shared(standing: Callable[[], Mounted]) -> Iterator[Mounted]:
    """The mount of a file's tests that neither end its daemon, nor change its limits, nor look at the log or at figures
    of all of it but what is there now. Each finds it without files."""
    mounted = standing()
    yield mounted
    if mounted.serves():
        cleared = run(["find", str(mounted.path), "-mindepth", "1", "-delete"])
        assert cleared.returncode == 0, cleared


@pytest.fixture(scope="module")
def standing() -> Iterator[Callable[[], Mounted]]:
    """A mount for all tests of a file; a dead one is replaced, so that one failure stays one."""
    workspace = Lab()

    def get() -> Mounted:
        if workspace.mounted is None or not workspace.mounted.serves():
            workspace.close()
            workspace.open()
            workspace.mount()
        assert workspace.mounted is not None
        return workspace.mounted

    try:
        yield get
    finally:
        workspace.close()
    errors = LOGS.errors()
    assert not errors, "\n".join(errors)
