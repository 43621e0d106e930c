"""What kind of error this is: one that may pass, one of the data, or one of the code or the machine."""

from __future__ import annotations

import errno
import http.client
import lzma
import re
import ssl
import struct
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Literal

from ..errors import ConfigError, InputError

Kind = Literal["transient", "data", "bug"]

#: OSErrors that do not pass and have nothing to do with the input: a full or read-only disk, a handle used after its end,
#: what the system does not do at all. Retrying them, or leaving the file out, would hide them.
HOPELESS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOSYS,
    errno.EOPNOTSUPP, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV,
})  # fmt: skip
#: OSErrors about the path itself: while an input is read they condemn this input, anywhere else they are a mistake of ours.
OF_THE_PATH = frozenset({
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
})  # fmt: skip
PATH_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
#: An XRootD server's own number in a message: not authorised, not found, is a directory, checksum, authentication failed.
SERVER_SAID = re.compile(r"Server responded with an error: \[(?:3010|3011|3015|3016|3019|3030)\]")
#: HTTP statuses that pass: request timeout, too early, too many requests, and every 5xx.
HTTP_PASSES = frozenset({408, 425, 429})

#: Packages whose code turns an input's bytes into arrays: what they raise is about those bytes.
READERS = ("uproot", "fsspec", "fsspec_xrootd")
#: Modules of ours whose FileNotFoundError is about an input; their other errors are bugs like anybody's.
OUR_READERS = ("elsewhere.processors.xrootd", "elsewhere.processors.remote", "elsewhere.processors.preflight")
#: Decompressors' own errors: about the bytes, wherever they are raised.
DAMAGE = (zlib.error, lzma.LZMAError)
#: What a reader raises when bytes make no sense to it. Not here: ImportError (something is not installed), MemoryError (the
#: machine), NotImplementedError (no other copy of the file would be read either).
NONSENSE = (
    ValueError, LookupError, TypeError, ArithmeticError, AttributeError, AssertionError, EOFError, struct.error, RecursionError,
    RuntimeError,
)  # fmt: skip


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and what that was raised in place of; each once."""
    seen: set[int] = set()
    todo: BaseException | None = error
    while todo is not None and id(todo) not in seen:
        seen.add(id(todo))
        yield todo
        todo = todo.__cause__ or (None if todo.__suppress_context__ else todo.__context__)


def _modules(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next


def raised_while_reading(error: BaseException, ours: tuple[str, ...] = ()) -> bool:
    """Whether the error came out of a reader: no frame of this package, but of ``ours``, lies deeper than the reader's."""
    reading = False
    for name in _modules(error.__traceback__):
        if name.split(".")[0] in READERS or name in ours:
            reading = True
        elif name.split(".")[0] == "elsewhere":
            reading = False
    return reading


def _of_oserror(error: OSError) -> Kind:
    if isinstance(error, ssl.SSLCertVerificationError) or error.errno in HOPELESS:
        return "bug"
    if isinstance(error, PATH_ERRORS) or error.errno in OF_THE_PATH or SERVER_SAID.search(str(error)):
        return "data" if raised_while_reading(error, OUR_READERS) else "bug"
    last = list(_modules(error.__traceback__))[-1:]
    # uproot says so when a file ends before the bytes that its own index promises: truncated, and no retry lengthens it.
    if last == ["uproot.source.chunk"] and "expected Chunk of length" in str(error):
        return "data"
    return "transient"


def _of_http(error: BaseException) -> Kind | None:
    """aiohttp's errors, known by name so that nobody has to install it; None for other errors."""
    names = {c.__name__ for c in type(error).__mro__ if c.__module__.partition(".")[0] == "aiohttp"}
    if "ClientError" not in names:
        return None
    if names & {"InvalidURL", "ClientConnectorCertificateError"}:
        return "bug"
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in HTTP_PASSES:
        return "data"
    return "transient"


def _of_one(error: BaseException) -> Kind | None:
    """The kind of one link of a chain; None where it says nothing, and its cause decides."""
    if not isinstance(error, Exception) or isinstance(
        error, (ConfigError, MemoryError, ImportError, NotImplementedError)
    ):
        return "bug"
    if isinstance(error, InputError):
        return getattr(error, "kind", "data")
    if isinstance(error, (OSError, http.client.HTTPException)) or _of_http(error):
        return _of_http(error) or (_of_oserror(error) if isinstance(error, OSError) else "transient")
    root = type(error).__module__.partition(".")[0]
    if isinstance(error, DAMAGE) or type(error).__name__ == "DecompressionError" or root == "uproot":
        return "data"
    if isinstance(error, NONSENSE) and raised_while_reading(error):
        return "data"
    return None


def classify(error: BaseException) -> Kind:
    """Whether an error may pass (transient), condemns the input (data), or is a mistake of code, set-up or machine (bug).

    The first error of the chain that says something decides. A bug is never tried again and never quarantined, so whatever
    is not known is a bug. Call it where the error was caught: without its traceback (after a trip between processes) a
    ValueError or FileNotFoundError of a reader cannot be told from ours, and is a bug.
    """
    for link in chain(error):
        kind = _of_one(link)
        if kind is not None:
            return kind
    return "bug"
