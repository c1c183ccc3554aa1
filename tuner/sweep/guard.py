"""However a sweep's process ends, no process of its Ray outlives it by more than a moment.

Ray's own processes notice late that the program which started them was killed: a trial's process after four seconds, in
which it trains on and holds the GPU, the agents after a minute. So a small process of its own waits for the sweep's
end, told by a pipe that closes whichever way that comes, and then kills what is left.

Ray's processes are found by their log files, whose folder is named after the process that started Ray. This needs
Linux's /proc; elsewhere nothing is done.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_ROUNDS = 20
_PAUSE_SECONDS = 0.1


class Guard:
    """Guards this process: to be entered before `ray.init`, and left after `ray.shutdown`."""

    def __enter__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        # In a session of its own, no signal for the sweep reaches it.
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def scratch_prefix(pid: int | str) -> str:
    """Return how the names of a process's temporary folders begin, which go with it too."""
    return f"fastface-tuner-{pid}-"


def main() -> None:
    """Wait until standard input closes, then remove what is left of a process: its Ray's processes, its folders."""
    pid = sys.argv[1]
    sys.stdin.read()
    for _ in range(_ROUNDS):
        left = _processes(pid)
        if not left:
            break
        for each in left:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    for scratch in Path(tempfile.gettempdir()).glob(f"{scratch_prefix(pid)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _processes(pid: str) -> list[int]:
    """Return the processes that have a file open in the folder of a Ray that `pid` started."""
    session = re.compile(rf"/session_[^/]*_{pid}/")
    others = (entry for entry in Path("/proc").glob("[0-9]*") if entry.name not in (pid, str(os.getpid())))
    return [int(entry.name) for entry in others if any(session.search(file) for file in _open_files(entry))]


def _open_files(process: Path) -> list[str]:
    with suppress(OSError):  # ended in the meantime, or another user's
        return [os.readlink(file) for file in os.scandir(process / "fd")]  # noqa: PTH115 - quicker than Path
    return []


if __name__ == "__main__":
    main()
