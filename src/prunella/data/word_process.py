"""A table of words in a process of its own: Python's lock lets only one thread of a process work.

What passes through the pipes is pickled, between this program and itself. A process that is no
longer needed, or whose owner was killed, finds its input at an end and leaves.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from typing import IO, cast

import numpy as np

from prunella.data.words import WordEncoder
from prunella.errors import InputError


class WordProcess:
    """Encodes texts as `WordEncoder` does, elsewhere; for one thread at a time.

    Args:
        words: What it begins with.
    """

    def __init__(self, words: WordEncoder) -> None:
        # A group of its own: Ctrl-C is for the owner, whose end is the end of this one too.
        # -P and PYTHONPATH: what is imported there is what was imported here.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,
        )
        self._input = cast(IO[bytes], self._process.stdin)
        self._output = cast(IO[bytes], self._process.stdout)
        # Special tokens in a text are text, or not: pickling a tokenizer forgets it.
        self._unsent = pickle.dumps((words, words.encoder.encode_special_tokens))

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of the texts end to end, and how many each text has (int64).

        Raises:
            InputError: The process was killed.
        """
        try:
            self._input.write(self._unsent)
            self._unsent = b""
            pickle.dump(texts, self._input)
            self._input.flush()
            return pickle.load(self._output)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            raise InputError(
                f"a process that tokenises text ended with exit code {code}. Is memory short? "
                "Free some and repeat the command."
            ) from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> int:
        """End the process, if it runs still, and return its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        return self._process.wait()


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Encode until there is nothing more."""
    words, special_as_text = pickle.load(requests)
    words.encoder.encode_special_tokens = special_as_text
    while True:
        pickle.dump(words.encode(pickle.load(requests)), answers)
        answers.flush()


if __name__ == "__main__":
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    with contextlib.suppress(EOFError, BrokenPipeError):
        _serve(sys.stdin.buffer, answers)
