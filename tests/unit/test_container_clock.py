"""Recordings are on their container's clock: a late start and gaps are silence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from whisperx_api_server.audio.decode import AudioDecoder
from whisperx_api_server.domain import SAMPLE_RATE, AudioClip
from whisperx_api_server.errors import TooLarge

pytestmark = pytest.mark.anyio

PICTURE = "-f lavfi -i color=size=64x64:duration=8:rate=5"
TONE = "-f lavfi -i sine=frequency=440:duration=4:sample_rate=48000"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def decoder(tmp_path: Path) -> AudioDecoder:
    return AudioDecoder(max_seconds=4 * 3600, timeout=60, workdir=tmp_path)


def make(path: Path, options: str) -> Path:
    """A file of the wheel's ffmpeg, which has every encoder."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y"]
    subprocess.run([*command, *options.split(), str(path)], check=True)
    return path


def jumping(path: Path, *, at: float, by: float, options: str = "") -> Path:
    """A tone of 4 s whose time stamps jump by so many seconds at that second."""
    stamps = f"-af asetpts=if(gte(T\\,{at})\\,PTS+{by}/TB\\,PTS)"
    return make(path, f"{TONE} {stamps} {options}")


def heard(clip: AudioClip) -> list[tuple[float, float]]:
    """Where the tone is, in seconds."""
    loud = np.abs(clip.samples) > 0.01
    frames = loud[: len(loud) // 800 * 800].reshape(-1, 800).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], frames, [False]]).astype(int)))
    return [(float(start), float(end)) for start, end in (edges.reshape(-1, 2) * 800 / SAMPLE_RATE)]


def is_heard(clip: AudioClip, *spans: tuple[float, float]) -> None:
    assert heard(clip) == [pytest.approx(span, abs=0.11) for span in spans]
    assert clip.duration == pytest.approx(spans[-1][1], abs=0.11)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "mpeg4"), ("a.mp4", "mpeg4"), ("a.mov", "mpeg4"), ("a.flv", "flv")],
)
@pytest.mark.parametrize("late", [5, 100])
async def test_sound_that_begins_late_in_a_film(
    decoder: AudioDecoder, tmp_path: Path, name: str, codec: str, late: int
) -> None:
    options = f"{PICTURE} -itsoffset {late} {TONE} -map 0:v -map 1:a -c:v {codec} -c:a aac"

    async with decoder.open(make(tmp_path / name, options)) as clip:
        is_heard(clip, (late, late + 4))


@pytest.mark.parametrize("name", ["a.mkv", "a.mka", "a.webm", "a.mp4", "a.m4a"])
async def test_sound_alone_that_begins_late(
    decoder: AudioDecoder, tmp_path: Path, name: str
) -> None:
    """The sound of a film, copied out of it as it is."""
    codec = "libopus" if name.endswith("webm") else "aac"

    async with decoder.open(make(tmp_path / name, f"-itsoffset 5 {TONE} -c:a {codec}")) as clip:
        is_heard(clip, (5, 9))


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
@pytest.mark.parametrize("gap", [0.5, 10, 1000])
async def test_a_gap_in_the_middle_is_silence(
    decoder: AudioDecoder, tmp_path: Path, name: str, gap: float
) -> None:
    path = jumping(tmp_path / name, at=1, by=gap, options="-c:a libopus -ac 2")

    async with decoder.open(path) as clip:
        is_heard(clip, (0, 1), (1 + gap, 4 + gap))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4", "a.ts"])
@pytest.mark.parametrize("hours", [1, 100])
async def test_a_piece_of_a_live_capture_begins_at_its_first_time_stamp(
    decoder: AudioDecoder, tmp_path: Path, name: str, hours: int
) -> None:
    codec = "libopus" if name.endswith("webm") else "aac"
    options = f"{TONE} -c:a {codec} -output_ts_offset {hours * 3600} -movflags +frag_keyframe"

    async with decoder.open(make(tmp_path / name, options)) as clip:
        is_heard(clip, (0, 4))


async def test_a_jump_beyond_the_longest_recording_is_a_broken_clock(
    decoder: AudioDecoder, tmp_path: Path
) -> None:
    path = jumping(tmp_path / "a.mkv", at=1, by=1e6, options="-c:a libopus")

    async with decoder.open(path) as clip:
        is_heard(clip, (0, 4))


async def test_gaps_count_as_part_of_the_recording(tmp_path: Path) -> None:
    path = jumping(tmp_path / "a.mkv", at=1, by=10, options="-c:a libopus")

    async with AudioDecoder(max_seconds=14.1, timeout=60, workdir=tmp_path).open(path):
        pass
    with pytest.raises(TooLarge, match="longer than 13 seconds"):
        async with AudioDecoder(max_seconds=13, timeout=60, workdir=tmp_path).open(path):
            pass


async def test_nothing_is_left_out_where_a_clock_goes_back(
    decoder: AudioDecoder, tmp_path: Path
) -> None:
    path = jumping(tmp_path / "a.nut", at=2, by=-1.5, options="-c:a pcm_s16le")

    async with decoder.open(path) as clip:
        is_heard(clip, (0, 4))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
        ("a.aac", "aac"),
        ("a.webm", "libopus"),
        ("a.ogg", "libvorbis"),
        ("a.mkv", "aac"),
    ],
)
async def test_padding_of_encoders_at_the_edges_is_not_a_gap(
    decoder: AudioDecoder, tmp_path: Path, name: str, codec: str
) -> None:
    async with decoder.open(make(tmp_path / name, f"{TONE} -c:a {codec}")) as clip:
        is_heard(clip, (0, 4))
