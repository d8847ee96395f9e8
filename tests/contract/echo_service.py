"""A party for channel contracts: the real socket server, with answers that a test can predict.

`python -m tests.contract.echo_service PARTY SOCKET` serves until SIGTERM.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from party_client.socket_server import serve

# A frame that begins so is answered after that many seconds: in time, and after every timeout here.
SLOW, LATE = b"slow", b"late"
SLOW_S, LATE_S = 0.5, 4.0


def answer_of(party: str, frame: bytes) -> bytes:
    """The answer of `party` to `frame`, after a while for a slow one; longer than the frame."""
    if frame.startswith(SLOW):
        time.sleep(SLOW_S)
    if frame.startswith(LATE):
        time.sleep(LATE_S)
    return party.encode() + b" heard " + frame


def main() -> None:
    """Serve one party."""
    party, path = sys.argv[1:]
    serve(lambda frame: answer_of(party, frame), Path(path), lambda: None)


if __name__ == "__main__":
    main()
