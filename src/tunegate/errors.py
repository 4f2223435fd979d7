"""Errors are sentences: what was wrong, where, and what to do.

TunegateError
├── BadInput      the recipe or the data must change      exit 2, not retryable
├── Refused       a rule of the system said no            exit 3, not retryable
├── Unavailable   a store, server or disk did not answer  exit 4, retryable
└── Interrupted   asked to stop; what was done is saved   exit 75, retryable
"""


class TunegateError(Exception):
    """Base of every error a user may see. `code` is the exit code, `retryable` whether the same call may succeed later."""

    code = 1
    retryable = False


class BadInput(TunegateError):
    code = 2


class Refused(TunegateError):
    code = 3


class Unavailable(TunegateError):
    code = 4
    retryable = True


class Interrupted(TunegateError):
    code = 75  # EX_TEMPFAIL of sysexits.h: the same call goes on from where it was
    retryable = True
