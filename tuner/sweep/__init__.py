"""Ray Tune: sequential trials, live progress.

Left to itself, Ray on Linux listens on all network interfaces, and whoever reaches one of its ports can run code in
this user's name. Here it listens on the loopback interface, and wants a token that only this process and its own know.
Ray reads these settings when it is imported, so they stand before every import of it; a program that has imported Ray
before has made its own choice.
"""

import os
import secrets
import sys

if "ray" not in sys.modules:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # a cluster of one machine, on any system
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
