"""Media are looked at in a process of their own: a codec that crashes takes no server with it.

A child is a module that is run with arguments and prints one JSON object, or an error's.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from latentsync.errors import CodecFailed, DeadlineExceeded, LatentSyncError, error_from_code

_REFUSED = 3  # exit code of a child that prints an error
_places = asyncio.Semaphore(2)  # more at once would take the machine from the work itself


async def ask_child(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run a module and return the object that it prints.

    Args:
        module: its full name.
        arguments: handed to it.
        timeout_s: longest run; the child is killed after it, or when the caller goes.

    Raises:
        DeadlineExceeded: it took too long.
        CodecFailed: it died.
        LatentSyncError: what it says.
    """
    async with _places:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for the server
        )
        try:
            async with asyncio.timeout(timeout_s):
                printed, _ = await process.communicate()
        except TimeoutError:
            raise DeadlineExceeded(f"Looking at it took longer than {timeout_s:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode not in (0, _REFUSED):
        raise CodecFailed("The file could not be looked at.")
    said: dict[str, Any] = json.loads(printed)
    if process.returncode == _REFUSED:
        raise error_from_code(said["code"], said["message"], said["field"])
    return said


def answer_with(look: Callable[..., dict[str, Any]]) -> None:
    """Be the child: call ``look`` with the arguments of the command and print what it returns."""
    try:
        answer, exit_code = look(*sys.argv[1:]), 0
    except LatentSyncError as error:
        answer, exit_code = error.to_dict(), _REFUSED
    sys.stdout.write(json.dumps(answer))
    sys.exit(exit_code)
