"""What a benchmark ran on, in lines to print above its figures."""

import os
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from tuner.tracking.environment import describe_environment


def banner(*packages: str) -> str:
    """Return date, hardware and the versions of Python and `packages`."""
    about = describe_environment()
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return (
        f"{datetime.now().astimezone():%Y-%m-%d}, "
        f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"Python {platform.python_version()}, {versions}, load before {os.getloadavg()[0]:.1f}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
