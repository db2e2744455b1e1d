"""Makes the golden state of today's format, `state-FORMAT.txt`, and `state-FORMAT.json`, which says what is in it.

python -m tests.store.golden.make
"""

from __future__ import annotations

import hashlib
import json
import stat
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from blockstore.daemon.namespace.names import ROOT, Names
from blockstore.store.state.geometry import FORMAT_VERSION
from blockstore.store.state.home import DirectoryHome
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from tests.store.golden.archive import pack
from tests.store.places import Directory
from tests.store.records import TierFile
from tests.store.sample import CLONE, DB, OTHER, WEB, fill
from tests.store.state_files import State

HERE: Final = Path(__file__).parent
LIMIT_BYTES: Final = 32 << 20
FILE_MODE: Final = stat.S_IFREG | 0o600
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755


def make(place: Path) -> dict[str, Any]:
    """Make the state in `place`/state and its tier in `place`/tier/file; what is in it, by path in the mount."""
    (place / "tier").mkdir()
    with (
        closing(Store(DirectoryHome(place / "state"), LIMIT_BYTES)) as store,
        closing(Names(place / "state" / "names.sqlite", 0, 0)) as names,
        closing(FileTier(str(place / "tier" / "file"), store.id)) as tier,
    ):
        blue, green = (names.create(ROOT, name, DIRECTORY_MODE, 0, 0).inode for name in (b"blue", b"green"))
        folders = {WEB: blue, DB: blue, CLONE: blue, OTHER: green}
        files = {name: names.create(folder, name.encode(), FILE_MODE, 0, 0) for name, folder in folders.items()}
        volumes = {name: store.create_volume(file.inode, file.domain) for name, file in files.items()}
        filler = store.create_volume(1 + max(volume.number for volume in volumes.values()), blue)
        fill(store, tier, volumes, filler)
        paths = names.files()
    (place / "state" / "lock").unlink()
    return {"format": FORMAT_VERSION, "files": [_file(place, number, path) for number, path in sorted(paths.items())]}


def _file(place: Path, number: int, path: str) -> dict[str, Any]:
    state = State(Directory(place / "state"), TierFile(place / "tier" / "file").read)
    contents, volume = state.contents(number), state.volume(number)
    return {
        "path": path,
        "number": number,
        "domain": volume.domain_key,
        "size_bytes": len(contents),
        "touched_blocks": len(volume.blocks),
        "sha256": hashlib.sha256(contents).hexdigest(),
    }


def main() -> None:
    """Write both files beside this one."""
    with tempfile.TemporaryDirectory(prefix="blockstore-golden-") as folder:
        contents = make(Path(folder))
        (HERE / f"state-{FORMAT_VERSION}.txt").write_text(pack(Path(folder)))
    (HERE / f"state-{FORMAT_VERSION}.json").write_text(json.dumps(contents, indent=2) + "\n")


if __name__ == "__main__":
    main()
