"""A PostgreSQL server for tests, in a folder of its own; `installed` says whether there is one to start."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

PASSWORD = "c4nary"  # noqa: S105 - of a server that lives for a test
USER = "postgres"


def installed() -> Path | None:
    """Return the folder of its programs: Debian keeps them out of the way."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


class Postgres:
    """A server that runs while the block does, and wants a password from everybody."""

    def __init__(self) -> None:
        programs = installed()
        assert programs is not None
        self._programs = programs
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="ft-pg-", dir="/tmp"))  # its socket needs a short path
        # It refuses to run as root.
        self._as = {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []} if os.getuid() == 0 else {}

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            for path in (self._folder, secret):
                shutil.chown(path, USER)
        data = self._folder / "data"
        initdb = [self._programs / "initdb", "-D", data, "-U", "me", "-A", "scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(
            [*initdb, "--no-sync", "--encoding=UTF8", "--locale=C"],
            cwd="/",
            check=True,
            capture_output=True,
            **self._as,
        )
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self._folder, "fsync": "off"}
        server = [self._programs / "postgres", "-D", data, "-p", str(self.port)]
        self._process = subprocess.Popen(
            [*server, *(word for key, value in options.items() for word in ("-c", f"{key}={value}"))],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.1)
            else:
                return self

    def stop(self) -> None:
        self._process.terminate()  # waits for those that are connected
        self._process.send_signal(2)  # does not
        self._process.wait(60)

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
