"""Errors that a user can cause: one sentence each, and the exit code that the command line ends with."""


class UserError(Exception):
    """Something a user can put right. The message says what happened, to what, and what to do next.

    ``exit_code`` is the process's exit code: 1 a check failed, 2 wrong usage, 3 the outside world failed.
    """

    exit_code = 3


class CheckFailed(UserError):
    """A handler answered wrong, or a check did not hold."""

    exit_code = 1


class WrongUsage(UserError):
    """The call itself is wrong: an unknown name, a bad value, options that exclude each other."""

    exit_code = 2


class OutsideFailure(UserError):
    """The world outside failed: tunnel, portal, network, disk."""

    exit_code = 3
