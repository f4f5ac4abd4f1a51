"""On a GPU, in large-v3's shape: 64 clips of 30 s at once, beside a peer's way.

python -m benchmarks.gpu
"""

from __future__ import annotations

from .common import BUILD, REPOSITORY, Row, clip, machine, save, server
from .sides import Ours, WhisperX, compare
from .speed_model import speed_model
from .spoken import Spoken

CLIPS = 64
PEER_CLIPS = 8
SECONDS = 30
ROUNDS = 3


def gpus() -> int:
    """How many CUDA devices CTranslate2 finds."""
    import ctranslate2

    count: int = ctranslate2.get_cuda_device_count()
    return count


def _precision() -> str:
    """float16, which GPUs older than Volta compute slowly or not at all, else float32."""
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types("cuda")
    return "float16" if "float16" in supported else "float32"


def run() -> list[Row]:
    """The GPU row; none where there is no GPU."""
    if not gpus():
        return []
    model = speed_model("large-v3", BUILD / "speed-large-v3", quantization="float16")
    precision = _precision()
    clips = [Spoken(samples=clip(SECONDS, seed), language="en", text="") for seed in range(CLIPS)]
    settings = {
        "WHISPER__INFERENCE_DEVICE": "cuda",
        "WHISPER__COMPUTE_TYPE": precision,
        "WHISPER__BATCH_SIZE": str(CLIPS),
    }
    with server(model, **settings) as running:
        return [
            compare(
                "GPU, large-v3 shape: 64 clips of 30 s at once vs WhisperX one by one",
                Ours(running, at_a_time=CLIPS),
                WhisperX(model, device="cuda", compute_type=precision),
                clips * ROUNDS,
                turn=CLIPS,
                other_clips=PEER_CLIPS,
                target=8.0,
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
