"""On a GPU, in large-v3's shape: 64 clips of 30 s at once, beside a peer's way.

python -m benchmarks.gpu
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from .common import BUILD, REPOSITORY, Row, clip, machine, save, server, wav
from .speed_model import speed_model
from .throughput import Peer

CLIPS = 64
PEER_CLIPS = 8
SECONDS = 30
ROUNDS = 3


def gpus() -> int:
    """How many CUDA devices CTranslate2 finds."""
    import ctranslate2

    count: int = ctranslate2.get_cuda_device_count()
    return count


def run() -> list[Row]:
    """The GPU row; none where there is no GPU."""
    if not gpus():
        return []
    model = speed_model("large-v3", BUILD / "speed-large-v3", quantization="float16")
    clips = [clip(SECONDS, seed) for seed in range(CLIPS)]
    peer = Peer(model, device="cuda", compute_type="float16")
    ours, theirs = [], []
    settings = {
        "WHISPER__INFERENCE_DEVICE": "cuda",
        "WHISPER__COMPUTE_TYPE": "float16",
        "WHISPER__BATCH_SIZE": str(CLIPS),
    }
    with server(model, **settings) as running:
        uploads = [wav(samples) for samples in clips]

        def send(upload: bytes) -> None:
            running.transcribe(upload, language="en", response_format="text").raise_for_status()

        for _ in range(ROUNDS):
            begun = time.perf_counter()
            with ThreadPoolExecutor(CLIPS) as pool:
                list(pool.map(send, uploads))
            ours.append((time.perf_counter() - begun) / CLIPS)
            begun = time.perf_counter()
            peer.one_by_one(clips[:PEER_CLIPS])
            theirs.append((time.perf_counter() - begun) / PEER_CLIPS)
    rate, peer_rate = 1 / statistics.median(ours), 1 / statistics.median(theirs)
    return [
        Row(
            name="GPU, large-v3 shape: 64 clips of 30 s at once vs WhisperX one by one",
            ours=rate,
            other=peer_rate,
            ratio=rate / peer_rate,
            target=8.0,
            better="higher",
            unit="clip/s",
        )
    ]


if __name__ == "__main__":
    print(machine())
    rows = run()
    if not rows:
        raise SystemExit("no CUDA device was found: the GPU row needs one")
    save(rows, REPOSITORY / "build" / "bench.json")
    for row in rows:
        print(f"{row.name}: {row.ours:.3g} {row.unit} vs {row.other:.3g}, {row.ratio:.1f}x")
