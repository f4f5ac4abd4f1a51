"""A process that hears windows: `python -m …embedded.worker FD`, spoken to over that socket.

PocketSphinx holds the interpreter lock for up to a second at a time, so it never runs inside the
server. The conversation, with `multiprocessing.connection` framing: the worker sends None once it
is ready; then for each message of 16 kHz mono 16-bit samples it answers with the list of `Heard`.
It has no other messages: when anything fails, it ends, and whoever started it takes another.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketsphinx import Decoder

Heard = tuple[str, float, float, float]
"""Word, start and end in seconds from the window's beginning, posterior probability in [0, 1]."""

FRAME_RATE = 100  # Hz; PocketSphinx's own
PRIMER_BYTES = 16_000  # 0.5 s


def hear(decoder: Decoder, pcm: bytes) -> list[Heard]:
    """Decode one window; the same samples give the same words, whatever was heard before."""
    # Noise estimates survive from one utterance to the next unless the front end starts anew; the
    # window's own beginning, not searched, then gives it a better start than nothing.
    decoder.reinit_feat()
    for part, no_search in ((pcm[:PRIMER_BYTES], True), (pcm, False)):
        decoder.start_utt()
        decoder.process_raw(part, no_search, True)
        decoder.end_utt()
    return [
        (
            entry.word.partition("(")[0],  # "read(2)" is the second way to pronounce "read"
            entry.start_frame / FRAME_RATE,
            (entry.end_frame + 1) / FRAME_RATE,
            min(1.0, entry.prob),  # rounded logarithms make certainty a little more than 1
        )
        for entry in decoder.seg() or ()
        if entry.word[0] not in "<[+"  # <s>, <sil>, [NOISE], ++UH++
    ]


def serve(connection: Connection) -> None:
    """Answer windows until the other end closes, by intent or because its process died."""
    from pocketsphinx import Decoder

    windows: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                windows.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # at once, in the middle of a window too: nobody waits for it

    # Phone look-ahead prunes words that were said: 5 errors in the 22 words of a real recording
    # without it, 10 with it, at the same speed.
    decoder = Decoder(loglevel="FATAL", pl_window=0)
    connection.send(None)
    threading.Thread(target=read, daemon=True).start()
    while True:
        connection.send(hear(decoder, windows.get()))


def main() -> None:
    """Entry point; the one argument is the number of an inherited socket."""
    # Ctrl-C and a supervisor's SIGTERM reach the whole process group, but the server still drains:
    # it is the closed socket that ends a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
