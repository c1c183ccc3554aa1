"""An existing Ray cluster: joined, looked at machine by machine before anything begins, and left as it was.

What a trial's process needs comes to it by a file system that all machines share: the sweep's folder, the stage store,
the data cache, and the working folder, under the same paths everywhere.
"""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tuner.data.cache import default_cache
from tuner.errors import UserError
from tuner.names import CACHE_VARIABLE
from tuner.sweep import OWN_SETTINGS
from tuner.sweep.ending import Ending
from tuner.sweep.jobs import ENVIRONMENT, HOME
from tuner.sweep.lanes import LOST_IN_A_ROW, Lanes
from tuner.sweep.ray_processes import PROCESS_SETTINGS, apply_settings

LISTEN_SECONDS: Final = 10.0
"""The head of a cluster accepts a connection in less."""
ANSWER_SECONDS: Final = 120.0
"""A machine that does not do a small task in so long is given up: it may have to load Ray's worker from a slow disk."""
PACKAGES: Final = ("fastface-tuner", "torch", "numpy")
"""What must be the same on all machines: it decides the last bits of each result, and what is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A node of the cluster on which a trial may run."""

    id: str
    name: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Share:
    """How many trials a cluster runs at a time, the CPU threads of each, and the processors that Ray counts for it."""

    number: int
    threads: int
    cpus: int


@contextmanager
def joined(
    address: str,
    *,
    concurrent: int | None,
    threads: int | None,
    folder: Path,
    store: Path | None,
    ending: Ending,
) -> Iterator[Lanes]:
    """Be a driver of the cluster at `address` while the block runs; it goes on afterwards, whatever happens here.

    Args:
        address: host and port of its head, or "auto" for the cluster that this machine belongs to.
        concurrent: the number of trials at a time; None: as many as it has GPUs, or where it has none, machines.
        threads: the CPU threads of a trial of a sweep that goes on; None for a new one.
        folder: the sweep's, which need not exist yet.
        store: the stage store, None for none.
        ending: hears Ctrl-C and SIGTERM.

    Raises:
        UserError: there is no such cluster, or one of its machines cannot take part; nothing was made then.
    """
    _connect(address, ending)
    import ray

    try:
        machines = able(ray.nodes())  # type: ignore[no-untyped-call]
        share = divided(machines, concurrent=concurrent, threads=threads)
        cache = default_cache().absolute()
        with _nonces(*(path for path in (folder, store, cache) if path is not None)) as nonces:
            _look_at(machines, nonces)
        yield Lanes(
            number=share.number,
            threads=share.threads,
            on_cpu=not any(machine.gpus for machine in machines),
            cpus=share.cpus,
            shared=folder,
            elsewhere={HOME: str(Path.cwd()), ENVIRONMENT: {**PROCESS_SETTINGS, CACHE_VARIABLE: str(cache)}},
            retries=LOST_IN_A_ROW,
        )
    finally:
        ray.shutdown()


def able(nodes: Sequence[Mapping[str, Any]]) -> list[Machine]:
    """Return the nodes that can run a trial, from what `ray.nodes` says: those with GPUs, or where none has, all.

    Raises:
        UserError: there are none.
    """
    machines = [
        Machine(
            id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in nodes
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]
    found = [each for each in machines if each.gpus] or machines
    if not found:
        raise UserError("a Ray cluster must have a processor for a trial, but this one has none; start a node that has")
    return found


def divided(machines: Sequence[Machine], *, concurrent: int | None, threads: int | None) -> Share:
    """Return what each trial gets where `concurrent` run on these machines, each with `threads` if that is given.

    Raises:
        UserError: so many cannot run at a time.
    """
    num_gpus, num_cpus = sum(each.gpus for each in machines), sum(each.cpus for each in machines)
    most, unit = (num_gpus, "GPUs") if num_gpus else (num_cpus, "processors")
    number = concurrent or (num_gpus or len(machines))
    if number > most:
        raise UserError(
            f"`--concurrent <= {most}` must hold, the cluster's number of {unit}, but got {number}; lower it"
        )
    if num_gpus:
        return Share(number, threads=max(1, min(each.cpus // each.gpus for each in machines)), cpus=1)
    if threads is not None:
        return Share(number, threads=threads, cpus=min(threads, *(each.cpus for each in machines)))
    most_each = max(each.cpus for each in machines)
    fitting = (n for n in range(most_each, 0, -1) if sum(each.cpus // n for each in machines) >= number)
    threads = next(fitting)
    return Share(number, threads=threads, cpus=threads)


def check_answer(
    machine: str, answer: Mapping[str, Any], *, nonces: Mapping[Path, str], versions: Mapping[str, str]
) -> None:
    """Raise UserError where what a machine answered says that it cannot take part.

    Args:
        machine: its name.
        answer: what it has: the `versions` of Python and packages, the `files` that were read, by path, None for one
            that is not there, and whether the working `folder` is there.
        nonces: what each file holds.
        versions: those of the driver.
    """
    for package, here in versions.items():
        there = answer["versions"].get(package)
        if there != here:
            raise UserError(
                f"all machines of a cluster must have the same {package}, but {machine} has {there or 'none'} and "
                f"this one {here}; install the same there, or take the node out of the cluster"
            )
    for path, nonce in nonces.items():
        if answer["files"].get(str(path)) != nonce:
            raise UserError(
                f"all machines of a cluster must see the folder {path.parent}, but {machine} does not; put it on a "
                "file system that they share, under the same path, or take the node out of the cluster"
            )
    if not answer["folder"]:
        raise UserError(
            f"all machines of a cluster must see the working folder {Path.cwd()}, but {machine} does not; begin in a "
            "folder that they share, or take the node out of the cluster"
        )


def versions_here() -> dict[str, str]:
    """Return the versions that all machines must have."""
    from importlib.metadata import version
    from platform import python_version

    return {"python": python_version(), **{package: version(package) for package in PACKAGES}}


def _connect(address: str, ending: Ending) -> None:
    if address.startswith("ray://"):
        raise UserError(
            "`--ray-address` must be that of a cluster's head, HOST:PORT, but got one of Ray Client; run the command "
            "on a machine of the cluster, with --ray-address auto"
        )
    _check_listens(address)
    if "ray" not in sys.modules:
        for name in OWN_SETTINGS:  # the cluster has its own token, or none
            os.environ.pop(name, None)
    apply_settings()
    import ray

    try:
        with ending.kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - whatever Ray says of an address that is none
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"`--ray-address` must name a Ray cluster that runs, but {address} cannot be joined: {text}; "
            "start one with `ray start --head`, or if it wants a token, set RAY_AUTH_MODE=token"
        ) from None
    ending.listen()  # Ray's compiled code has taken the signals
    ending.check()


def _check_listens(address: str) -> None:
    """Raise UserError where nothing listens at an address: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"`--ray-address` must be HOST:PORT of a cluster's head, or auto, but got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LISTEN_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"`--ray-address` must name a Ray cluster that runs, but nothing answers at {address}: {error}; start one "
            "with `ray start --head`, or leave --ray-address out"
        ) from None


def _look_at(machines: Sequence[Machine], nonces: Mapping[Path, str]) -> None:
    """Ask each machine for what it has and sees, all at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(paths: list[str], folder: str, packages: tuple[str, ...]) -> dict[str, Any]:
        # Sent as code, since this tool may not be there.
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path
        from platform import python_version

        found: dict[str, Any] = {"versions": {"python": python_version()}, "files": {}, "folder": Path(folder).is_dir()}
        for package in packages:
            try:
                found["versions"][package] = version(package)
            except PackageNotFoundError:
                found["versions"][package] = None
        for path in paths:
            try:
                found["files"][path] = Path(path).read_text()
            except OSError:
                found["files"][path] = None
        return found

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    answers = {
        machine: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(machine.id, soft=False)).remote(
            [str(path) for path in nonces], str(Path.cwd()), PACKAGES
        )
        for machine in machines
    }
    versions = versions_here()
    for machine, reference in answers.items():
        try:
            answer = ray.get(reference, timeout=ANSWER_SECONDS)
        except Exception as error:  # noqa: BLE001 - a task fails in as many ways as there are machines
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"all machines of a cluster must run a task, but {machine.name} does not: {text}; mend it, or take the "
                "node out of the cluster"
            ) from None
        check_answer(machine.name, answer, nonces=nonces, versions=versions)


@contextmanager
def _nonces(*folders: Path) -> Iterator[dict[Path, str]]:
    """Put a file with a random text into each folder while the block runs; folders that were not there go again."""
    found: dict[Path, str] = {}
    with ExitStack() as left:
        for folder in folders:
            missing = [each for each in (folder, *folder.parents) if not each.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for each in reversed(missing):
                    left.callback(_remove_empty, each)
                path = folder / f".fastface-tuner-{secrets.token_hex(8)}"
                path.write_text(nonce := secrets.token_hex(8))
            except OSError as error:
                raise UserError(f"{folder} must be writable, but is not: {error.strerror}; use another") from None
            left.callback(path.unlink, missing_ok=True)
            found[path] = nonce
        yield found


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # somebody has put something there
