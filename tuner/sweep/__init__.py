"""Ray Tune: trials one after another or side by side, live progress.

Left to itself, Ray on Linux listens on all network interfaces, and whoever reaches one of its ports can run code in
this user's name. Here it listens on the loopback interface, and wants a token that only this process and its own know.
Ray reads these settings when it is imported, so they stand before every import of it; a program that has imported Ray
before has made its own choice. A cluster that runs already has one too, so `tuner.sweep.cluster` takes them back.
"""

import os
import secrets
import sys

OWN_SETTINGS: dict[str, str] = {}
"""Those of the settings that nobody else had made."""

if "ray" not in sys.modules:
    _wanted = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster of one machine, on any system
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    OWN_SETTINGS.update({name: value for name, value in _wanted.items() if name not in os.environ})
    os.environ.update(OWN_SETTINGS)
