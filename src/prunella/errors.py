"""The one exception that means: the user can fix this."""


class InputError(Exception):
    """Bad input. The message says what was wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    Every other exception is a fault of ours (exit code 1).
    """


# The Rust libraries (safetensors, tokenizers) and torch's writer raise exceptions of their own.
_SIGNS_OF_FAILED_WRITING = ("(os error ", "PytorchStreamWriter", "inline_container")


def failed_to_write(error: Exception) -> bool:
    """Whether an exception means a full disk, or a folder that cannot be written."""
    if isinstance(error, OSError):
        return True
    return any(sign in str(error) for sign in _SIGNS_OF_FAILED_WRITING)


def first_line(error: Exception) -> str:
    """What an exception of a library says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
