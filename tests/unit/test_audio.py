"""Real files of many kinds, good and bad, through the real ffmpeg."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
import tracemalloc
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from live import until
from support import PATIENCE
from whisperx_api_server.audio import decode as audio
from whisperx_api_server.audio.decode import AudioDecoder
from whisperx_api_server.audio.ffmpeg import find_ffmpeg
from whisperx_api_server.audio.wav import read_plain
from whisperx_api_server.domain import SAMPLE_RATE
from whisperx_api_server.errors import InvalidAudio, NotInstalled, TooLarge, Unavailable

pytestmark = pytest.mark.anyio

TONE = ("-f", "lavfi", "-i", "sine=frequency=440:duration=2:sample_rate=48000")
PICTURE = ("-f", "lavfi", "-i", "testsrc=duration=2:size=64x64:rate=10")

FakeFfmpeg = Callable[[str], None]

PIPED = 6_000_000  # bytes that may be on their way when the reader has enough


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that ffmpeg must decode."""
    file = tmp_path / "a.wav"
    file.write_bytes(b"something")
    return file


@pytest.fixture
def decoder(workdir: Path) -> AudioDecoder:
    return AudioDecoder(max_seconds=60, timeout=60, workdir=workdir)


@pytest.fixture
def fake_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFfmpeg:
    """Put a shell script in ffmpeg's place; it runs beside `header`, that of a WAV stream."""
    (tmp_path / "header").write_bytes(stream_header(channels=1))

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "ffmpeg"
        path.write_text(f"#!/bin/sh\ncd '{tmp_path}'\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def ffmpeg(*arguments: str | Path) -> None:
    """Run the wheel's ffmpeg, which has every encoder."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *arguments]
    subprocess.run(command, check=True)


def write_wav(path: Path, data: bytes, *, rate: int, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(data)
    return path


def write_float_wav(path: Path, samples: NDArray[np.float32]) -> Path:
    """16 kHz mono IEEE float; the standard library writes integers only."""
    data = samples.astype("<f4").tobytes()
    form = (3).to_bytes(2, "little") + (1).to_bytes(2, "little")
    rates = SAMPLE_RATE.to_bytes(4, "little") + (4 * SAMPLE_RATE).to_bytes(4, "little")
    body = b"WAVEfmt " + (16).to_bytes(4, "little") + form + rates + b"\x04\0\x20\0"
    body += b"data" + len(data).to_bytes(4, "little") + data
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    return path


def stream_header(*, channels: int) -> bytes:
    """What ffmpeg writes ahead of 16 kHz float samples, where it cannot know how many come."""
    form = struct.pack("<HHIIHH", 3, channels, SAMPLE_RATE, 0, 4 * channels, 32)
    unknown = b"\xff\xff\xff\xff"
    return b"RIFF" + unknown + b"WAVEfmt \x10\0\0\0" + form + b"data" + unknown


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def files(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


def contents(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def pitch(samples: NDArray[np.float32]) -> float:
    """The strongest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("u8.wav", "-c:a pcm_u8"),
        ("s16.wav", "-c:a pcm_s16le"),
        ("s24.wav", "-c:a pcm_s24le"),
        ("f32.wav", "-c:a pcm_f32le"),
        ("mulaw.wav", "-ar 8000 -c:a pcm_mulaw"),
        ("8channels.wav", "-ar 192000 -ac 8"),
        ("big-endian.aiff", "-c:a pcm_s16be"),
        ("lossless.flac", "-c:a flac"),
        ("alac.m4a", "-c:a alac"),
        ("alac.caf", "-c:a alac"),
        ("aac.m4a", "-c:a aac"),
        ("adts.aac", "-c:a aac"),
        ("layer3.mp3", "-c:a libmp3lame"),
        ("layer2.mp2", "-c:a mp2"),
        ("opus.ogg", "-c:a libopus"),
        ("vorbis.ogg", "-c:a libvorbis"),
        ("opus.webm", "-c:a libopus"),
        ("vorbis.mkv", "-c:a libvorbis"),
        ("telephone.amr", "-ar 8000 -c:a libopencore_amrnb"),
        ("dolby.ac3", "-c:a ac3"),
        ("windows.wma", "-c:a wmav2"),
        ("wavpack.wv", "-c:a wavpack"),
        ("sun.au", "-c:a pcm_s16be"),
        ("flash.flv", "-ar 44100 -c:a libmp3lame"),
        ("transport.ts", "-c:a aac"),
        ("phone.3gp", "-ar 8000 -c:a libopencore_amrnb"),
    ],
)
async def test_decodes_any_container_and_codec(
    decoder: AudioDecoder, tmp_path: Path, name: str, options: str
) -> None:
    ffmpeg(*TONE, *options.split(), tmp_path / name)
    recording = (tmp_path / name).rename(tmp_path / "upload")  # as uploads are: no extension

    async with decoder.open(recording) as clip:
        assert clip.sample_rate == SAMPLE_RATE
        assert clip.duration == pytest.approx(2.0, abs=0.15)
        assert clip.samples.dtype == np.float32
        assert clip.samples.ndim == 1
        assert not clip.samples.flags.writeable
        assert pitch(clip.samples) == pytest.approx(440, abs=2)


async def test_takes_the_sound_of_a_video(decoder: AudioDecoder, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    ffmpeg(*PICTURE, *TONE, video)

    async with decoder.open(video) as clip:
        assert pitch(clip.samples) == pytest.approx(440, abs=2)


async def test_mixes_channels_without_changing_loudness(
    decoder: AudioDecoder, tmp_path: Path
) -> None:
    left = np.round(16384 * np.sin(np.arange(SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE))
    for right in (left, -left):
        data = np.stack([left, right], axis=1).astype("<i2").tobytes()
        path = write_wav(tmp_path / "a.wav", data, rate=SAMPLE_RATE, channels=2)
        async with decoder.open(path) as clip:
            assert np.abs(clip.samples).max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 8, 9, 16, 32, 64])
@pytest.mark.parametrize("inverted", [False, True], ids=["one", "every second inverted"])
async def test_no_channel_is_lost(
    decoder: AudioDecoder, tmp_path: Path, channels: int, inverted: bool
) -> None:
    tone = 16384 * np.sin(np.arange(SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE)
    data = np.zeros((SAMPLE_RATE, channels))
    if inverted:
        data[:, 0::2], data[:, 1::2] = tone[:, None], -tone[:, None]
    for alone in [None] if inverted else sorted({0, 2 % channels, channels - 1}):
        if alone is not None:
            data[:] = 0
            data[:, alone] = tone
        path = tmp_path / "a.wav"
        write_wav(path, data.astype("<i2").tobytes(), rate=SAMPLE_RATE, channels=channels)
        async with decoder.open(path) as clip:
            assert pitch(clip.samples) == pytest.approx(440, abs=2)
            loudest = np.abs(clip.samples).max()
            assert loudest >= (0.49 if inverted else 0.7 * 0.5 / channels)


async def test_keeps_16_khz_samples_as_they_are(decoder: AudioDecoder, tmp_path: Path) -> None:
    """Whether ffmpeg decodes them or the short cut for plain WAV files."""
    samples = np.random.default_rng(1).integers(-32768, 32767, SAMPLE_RATE).astype("<i2")
    plain = write_wav(tmp_path / "noise.wav", samples.tobytes(), rate=SAMPLE_RATE)
    packed = tmp_path / "noise.flac"
    ffmpeg("-i", plain, packed)

    for path in (plain, packed):
        async with decoder.open(path) as clip:
            np.testing.assert_array_equal(clip.samples, samples.astype(np.float32) / 32768)
            assert clip.samples.dtype == np.float32
            assert not clip.samples.flags.writeable


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("codec", ["u8", "s16le", "s24le", "s32le", "f32le", "f64le"])
async def test_a_short_wav_of_any_sample_format_needs_no_ffmpeg(
    decoder: AudioDecoder,
    tmp_path: Path,
    fake_ffmpeg: FakeFfmpeg,
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    codec: str,
) -> None:
    path = tmp_path / "tone.wav"
    sides = ("-af", f"aeval={'|'.join(['3*val(0)', '-2*val(0)'][:channels])}")
    ffmpeg(*TONE, *sides, "-ar", str(SAMPLE_RATE), "-c:a", f"pcm_{codec}", path)
    with monkeypatch.context() as patched:
        patched.setattr(audio, "_PLAIN_WAV_BYTES", 0)
        async with decoder.open(path) as clip:
            expected = clip.samples.copy()

    fake_ffmpeg("exit 1")
    decoder = AudioDecoder(max_seconds=60, timeout=60, workdir=tmp_path)
    async with decoder.open(path) as clip:
        np.testing.assert_array_equal(clip.samples, expected)
        assert pitch(clip.samples) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ms"])
async def test_ffmpeg_decodes_a_wav_that_is_compressed(
    decoder: AudioDecoder, tmp_path: Path, codec: str
) -> None:
    path = tmp_path / "tone.wav"
    ffmpeg(*TONE, "-ar", str(SAMPLE_RATE), "-c:a", codec, path)
    async with decoder.open(path) as clip:
        assert pitch(clip.samples) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("announced", [0, 20_000, 0x7FFFFFFF, 0xFFFFFFFF])
async def test_reads_a_wav_whose_header_was_never_completed(
    decoder: AudioDecoder, tmp_path: Path, announced: int
) -> None:
    """As streaming encoders write it: the sizes in the header are not those of the data."""
    path = write_wav(tmp_path / "stream.wav", b"\1\2" * SAMPLE_RATE, rate=SAMPLE_RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = announced.to_bytes(4, "little")
    if announced:
        data[40:44] = max(announced, 2 * SAMPLE_RATE).to_bytes(4, "little")
    path.write_bytes(data)

    async with decoder.open(path) as clip:
        assert clip.duration == 1.0


@pytest.mark.parametrize("chunk", [b"data", b"JUNK", b"fmt "])
def test_a_header_that_announces_gigabytes_takes_no_memory(tmp_path: Path, chunk: bytes) -> None:
    path = tmp_path / "stream.wav"
    header = stream_header(channels=1).removesuffix(b"data\xff\xff\xff\xff")
    path.write_bytes(header + chunk + b"\xff\xff\xff\xff" + bytes(100))

    tracemalloc.start()
    try:
        assert read_plain(path, SAMPLE_RATE) is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


async def test_silences_nan_and_clips(decoder: AudioDecoder, tmp_path: Path) -> None:
    samples = np.full(SAMPLE_RATE, 0.25, dtype=np.float32)
    samples[100:105] = [np.nan, np.inf, -np.inf, 7, -7]

    async with decoder.open(write_float_wav(tmp_path / "wild.wav", samples)) as clip:
        np.testing.assert_array_equal(clip.samples[100:105], [0, 1, -1, 1, -1])
        assert np.all(np.delete(clip.samples, slice(100, 105)) == 0.25)


async def test_silence_is_not_an_error(decoder: AudioDecoder, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "silence.wav", bytes(2 * SAMPLE_RATE), rate=SAMPLE_RATE)

    async with decoder.open(path) as clip:
        assert clip.duration == 1.0
        assert not clip.samples.any()


@pytest.mark.parametrize("rate", [5, 100, 7_999, 192_000])
async def test_resamples_odd_rates(decoder: AudioDecoder, tmp_path: Path, rate: int) -> None:
    path = write_wav(tmp_path / "odd.wav", bytes(2 * 20 * rate), rate=rate)

    async with decoder.open(path) as clip:
        assert clip.duration == pytest.approx(20, abs=0.1)


async def test_one_hertz_is_decoded_or_refused(decoder: AudioDecoder, tmp_path: Path) -> None:
    """Ten samples are fewer than a resampling filter is long; whatever comes, it is no crash."""
    path = write_wav(tmp_path / "slow.wav", bytes(20), rate=1)

    with pytest.raises(InvalidAudio, match="no audio samples"):
        async with decoder.open(path):
            pass


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("This is a letter, not a song.\n" * 200)


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(7).bytes(100_000))


def picture(path: Path) -> None:
    ffmpeg(*PICTURE, "-frames:v", "1", "-c:v", "png", "-f", "image2", path)


def silent_film(path: Path) -> None:
    ffmpeg(*PICTURE, "-f", "mp4", path)


def no_samples(path: Path) -> None:
    write_wav(path, b"", rate=SAMPLE_RATE)


def half_header(path: Path) -> None:
    write_wav(path, bytes(100), rate=SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:20])


def chunk_beyond_the_end(path: Path) -> None:
    path.write_bytes(b"RIFF\x20\0\0\0WAVEJUNK\0\1\0\0" + bytes(400))


def index_cut_off(path: Path) -> None:
    """The usual m4a: its index comes last."""
    ffmpeg(*TONE, "-f", "ipod", path)
    path.write_bytes(path.read_bytes()[:-2000])


def data_cut_off(path: Path) -> None:
    """An m4a for streaming: its index comes first, so half of it still decodes."""
    ffmpeg(*TONE, "-movflags", "faststart", "-f", "ipod", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "is empty"),
        (text, "cannot be decoded"),
        (noise, "cannot be decoded"),
        (picture, "cannot be decoded"),
        (silent_film, "no audio stream"),
        (no_samples, "no audio samples"),
        (half_header, "cannot be decoded"),
        (chunk_beyond_the_end, "cannot be decoded"),
        (index_cut_off, "ends too early"),
        (data_cut_off, "ends too early"),
    ],
)
@pytest.mark.parametrize("name", ["upload", "song.mp3"])
async def test_refuses_what_is_not_audio(
    decoder: AudioDecoder,
    tmp_path: Path,
    workdir: Path,
    name: str,
    make: Callable[[Path], None],
    message: str,
) -> None:
    make(tmp_path / name)

    with pytest.raises(InvalidAudio, match=message) as caught:
        async with decoder.open(tmp_path / name, param="audio_url"):
            pass

    assert caught.value.param == "audio_url"
    assert str(tmp_path) not in caught.value.message
    assert is_empty(workdir)


async def test_decodes_what_is_there_of_a_damaged_file(
    decoder: AudioDecoder, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.mp3"
    ffmpeg(*TONE, path)
    data = bytearray(path.read_bytes())
    data[8_000:9_000] = np.random.default_rng(3).bytes(1_000)
    path.write_bytes(data)

    async with decoder.open(path) as clip:
        assert clip.duration > 1.5


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:{target}\n#EXT-X-ENDLIST\n"
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"
 type="static" mediaPresentationDuration="PT2S" minBufferTime="PT1S"><Period><AdaptationSet
 mimeType="audio/mp4"><Representation id="1" bandwidth="1000"><BaseURL>{target}</BaseURL>
</Representation></AdaptationSet></Period></MPD>"""


PLAYLISTS = {
    "m3u8": HLS,
    "mpd": DASH,
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "m3u": "#EXTM3U\n{target}\n",
    "pls": "[playlist]\nFile1={target}\n",
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0",
}


@pytest.mark.parametrize("extension", PLAYLISTS)
@pytest.mark.parametrize("named", [True, False])
async def test_never_reads_another_file(
    decoder: AudioDecoder, tmp_path: Path, extension: str, named: bool
) -> None:
    secret = tmp_path / "secret.m4a"
    ffmpeg(*TONE, secret)
    playlist = tmp_path / (f"list.{extension}" if named else "upload")
    playlist.write_text(PLAYLISTS[extension].format(target=secret))

    with pytest.raises(InvalidAudio):
        async with decoder.open(playlist):
            pass


@pytest.mark.parametrize(
    "name", ["-i", "-version", "concat:a|b", "http:", "%03d.wav", "a b'\"$(id);&.wav", "ü\n.wav"]
)
async def test_a_hostile_name_is_only_a_name(
    decoder: AudioDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_wav(tmp_path / "plain.wav", bytes(2 * 8000), rate=8000)
    path.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    async with decoder.open(Path(name)) as clip:
        assert clip.duration == 1.0


@pytest.mark.parametrize("rate", [8000, SAMPLE_RATE])
async def test_refuses_what_is_too_long(tmp_path: Path, workdir: Path, rate: int) -> None:
    decoder = AudioDecoder(max_seconds=2, timeout=60, workdir=workdir)
    path = write_wav(tmp_path / "fits.wav", bytes(2 * 2 * rate), rate=rate)
    async with decoder.open(path) as clip:
        assert clip.duration == 2.0

    path = write_wav(tmp_path / "long.wav", bytes(2 * 2 * rate + 2), rate=rate)
    with pytest.raises(TooLarge, match="longer than 2 seconds"):
        async with decoder.open(path):
            pass


async def test_hours_of_silence_do_not_fill_the_disk(
    tmp_path: Path, workdir: Path, fake_ffmpeg: FakeFfmpeg
) -> None:
    """A small file can hold hours: decoding must stop shortly behind the limit."""
    silence = tmp_path / "silence.flac"
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000", "-t", "3600", silence)
    real = imageio_ffmpeg.get_ffmpeg_exe()
    fake_ffmpeg(f"'{real}' \"$@\" | tee written")

    with pytest.raises(TooLarge):
        async with AudioDecoder(max_seconds=3, timeout=60, workdir=workdir).open(silence):
            pass

    assert (tmp_path / "written").stat().st_size <= 3 * 4 * SAMPLE_RATE + PIPED


async def test_no_temporary_file_has_a_name(
    decoder: AudioDecoder, tmp_path: Path, workdir: Path
) -> None:
    path = write_wav(tmp_path / "a.wav", bytes(2 * 8000), rate=8000)

    async with decoder.open(path) as clip:
        assert is_empty(workdir)
    assert not clip.samples.any()  # may be read for as long as somebody holds it


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def started(path: Path) -> int:
    """The process id that a fake ffmpeg wrote down."""
    while not contents(path).endswith("\n"):  # noqa: ASYNC110 (another process writes it)
        await asyncio.sleep(0.01)
    return int(contents(path))


async def test_cancelling_kills_ffmpeg(
    path: Path, decoder: AudioDecoder, tmp_path: Path, workdir: Path, fake_ffmpeg: FakeFfmpeg
) -> None:
    fake_ffmpeg("echo $$ > pid; exec sleep 60")

    async def decode() -> None:
        async with decoder.open(path):
            pass

    task = asyncio.create_task(decode())
    pid = await started(tmp_path / "pid")
    assert is_running(pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not is_running(pid)
    assert is_empty(workdir)


async def test_a_decoder_that_hangs_is_killed(
    path: Path, tmp_path: Path, workdir: Path, fake_ffmpeg: FakeFfmpeg
) -> None:
    fake_ffmpeg("echo $$ > pid; exec sleep 60")

    with pytest.raises(Unavailable, match="decoding took longer"):
        async with AudioDecoder(max_seconds=9, timeout=2, workdir=workdir).open(path):
            pass

    assert not is_running(await started(tmp_path / "pid"))


async def test_endless_complaints_are_bounded(
    path: Path, decoder: AudioDecoder, fake_ffmpeg: FakeFfmpeg
) -> None:
    fake_ffmpeg("yes 'broken frame' | head -c 5000000 >&2; echo 'partial file' >&2")

    with pytest.raises(InvalidAudio, match="ends too early"):
        async with decoder.open(path):
            pass


async def test_a_full_disk_is_not_the_clients_fault(
    path: Path,
    decoder: AudioDecoder,
    tmp_path: Path,
    fake_ffmpeg: FakeFfmpeg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_ffmpeg("cat header; exec cat /dev/zero")
    full = partial(open, "/dev/full", "r+b", buffering=0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full())

    with pytest.raises(Unavailable):
        async with decoder.open(path):
            pass


async def test_ffmpeg_does_not_see_our_secrets(
    path: Path,
    decoder: AudioDecoder,
    tmp_path: Path,
    fake_ffmpeg: FakeFfmpeg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fake_ffmpeg("env > seen; cat header; head -c 64000 /dev/zero")

    async with decoder.open(path):
        pass

    assert "PATH=" in (tmp_path / "seen").read_text()
    assert "hf_secret" not in (tmp_path / "seen").read_text()


@pytest.mark.parametrize(("size", "count"), [(100_000_000, 12), (9, 4)])
async def test_a_short_recording_does_not_wait_for_long_ones(
    tmp_path: Path,
    workdir: Path,
    fake_ffmpeg: FakeFfmpeg,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    count: int,
) -> None:
    """Long ones stay with ffmpeg until the short one is through; they may be small files too."""
    monkeypatch.setattr(audio, "_SMALL_FILE_SECONDS", 0.05)
    fake_ffmpeg(
        'case "$*" in *long*) touch "$$.busy"; until [ -e done ]; do sleep 0.01; done;; esac; '
        "cat header; head -c 64000 /dev/zero"
    )
    long, short = tmp_path / "long", tmp_path / "short"
    long.touch()
    os.truncate(long, size)
    short.write_bytes(b"something")
    decoder = AudioDecoder(max_seconds=9, timeout=60, workdir=workdir)

    async def decode(path: Path) -> float:
        async with decoder.open(path) as clip:
            return clip.duration

    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(decode(long)) for _ in range(count)]
        try:
            while files(tmp_path, "*.busy") < 4:  # noqa: ASYNC110 (other processes write them)
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(decode(short), PATIENCE) == 1.0
            assert not any(task.done() for task in waiting)
        finally:
            (tmp_path / "done").touch()


async def test_runs_no_more_processes_than_allowed(
    path: Path, tmp_path: Path, workdir: Path, fake_ffmpeg: FakeFfmpeg
) -> None:
    fake_ffmpeg(
        "mkdir run.$$; ls -d run.* | wc -l >> counts; sleep 0.1; rmdir run.$$; "
        "cat header; head -c 64000 /dev/zero"
    )
    decoder = AudioDecoder(max_seconds=9, timeout=60, workdir=workdir, concurrency=2)

    async def decode() -> float:
        async with decoder.open(path) as clip:
            return clip.duration

    assert await asyncio.gather(*(decode() for _ in range(6))) == [1.0] * 6
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 6
    assert max(counts) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of resident pages")
async def test_a_long_recording_does_not_stay_in_memory(
    path: Path, workdir: Path, fake_ffmpeg: FakeFfmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return sum(
            int(line.split()[1]) << 10
            for line in status.splitlines()
            if line.startswith(("RssFile", "RssShmem"))
        )

    size = 100_000_000
    fake_ffmpeg(f"cat header; head -c {size} /dev/zero")
    monkeypatch.setattr(audio, "_RELEASE_INTERVAL", 0.05)

    async with AudioDecoder(max_seconds=9_999, timeout=60, workdir=workdir).open(path) as clip:
        before = resident()
        assert not clip.samples.any()
        assert resident() - before > 0.9 * size
        await until(lambda: resident() - before < 0.1 * size)
        assert not clip.samples.any()


def test_finds_the_wheels_ffmpeg_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == imageio_ffmpeg.get_ffmpeg_exe()

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(NotInstalled, match="pip install imageio-ffmpeg"):
        find_ffmpeg()


async def test_an_ffmpeg_that_does_not_start_is_named(
    path: Path, decoder: AudioDecoder, tmp_path: Path, fake_ffmpeg: FakeFfmpeg
) -> None:
    fake_ffmpeg("")
    (tmp_path / "bin" / "ffmpeg").write_text("#!/no/such/shell\n")

    with pytest.raises(NotInstalled, match="ffmpeg"):
        async with decoder.open(path):
            pass
