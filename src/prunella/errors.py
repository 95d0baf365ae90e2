"""The one exception that means: the user can fix this."""


class InputError(Exception):
    """Bad input. The message says what was wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    Every other exception is a fault of ours (exit code 1).
    """
