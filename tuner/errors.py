"""Errors a user can mend: each message states the rule, the value and the way out, on one line."""


class UserError(Exception):
    """Input that cannot be used as it is; the command line prints it as one line and exits with status 2."""


class NoRoomError(UserError):
    """The disk stayed full for too long; nothing is lost, and what was under way can be resumed."""


class NoMemoryError(UserError):
    """What was asked for does not fit into the memory of the host or of the GPU."""


class DivergedError(Exception):
    """The training loss became NaN or infinite, or exploded; the trial has failed, the sweep goes on."""


class SweepStoppedError(Exception):
    """A sweep ended before its last trial for the cause that the message states on one line; it can be resumed."""
