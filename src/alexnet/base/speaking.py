"""Who speaks where several processes run one command: the first, for all that all of them know."""

from __future__ import annotations

import os
import signal
import threading
from platform import node

PATIENCE = 5.0  # seconds that another process gives the first to say the same and end


def is_first() -> bool:
    """Whether this process is the one that prints, known before the processes have met."""
    return os.environ.get("RANK", "0") == "0"


def told(message: str, agreed: bool = False, lost: bool = False) -> str:
    """What this process is to say of an error: the message, with its number and host where it is not the first, or ""
    where the first says it. `agreed` means that all have the same error, `lost` that the first may be gone.

    torchrun ends all processes of a machine as soon as one has failed, so that who ends before the first silences it.
    Under torchrun all others therefore wait until they are told to end, which is when the first has spoken.
    """
    if is_first() or (lost and os.environ.get("LOCAL_RANK") in ("0", "1")):
        return message
    if (_waits() and _told_to_end()) or agreed or lost:
        return ""
    return f"process {os.environ['RANK']} of {os.environ.get('WORLD_SIZE', '?')}, on {node()}: {message}"


def _waits() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and threading.current_thread() is threading.main_thread()


def _told_to_end() -> bool:
    """Whether torchrun ends this process within PATIENCE."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        return ended.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGTERM, before)
