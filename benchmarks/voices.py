"""Speech for the voice models of benchmarks/optimize.py: recorded prompts, mixed with noise.

    apt-get download asterisk-core-sounds-en-wav        # 568 prompts of one speaker, 8 kHz, CC BY-SA 3.0
    python benchmarks/voices.py asterisk-core-sounds-en-wav_*.deb FOLDER

Writes voices.npz into FOLDER: ``speech`` [prompts, samples], 16 kHz, float32. Recordings stay out of the repository.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

RATE, SECONDS, PROMPTS = 16000, 3, 160
FRAME, HOP = 320, 160  # of NSNet2
STEP, CONTEXT = 512, 64  # of Silero VAD
QUIETEST, LOUDEST = 0.0, 20.0  # dB of speech above noise


def recordings(package: Path) -> np.ndarray:
    """The first seconds of prompts that are long enough, at twice their rate."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        for path in sorted(Path(folder).rglob("*.wav")):
            with wave.open(str(path)) as file:
                assert file.getframerate() == RATE // 2
                samples = np.frombuffer(file.readframes(SECONDS * RATE // 2), "<i2") / 32768
            if len(samples) == SECONDS * RATE // 2:
                found.append(doubled(samples))
    return np.stack(found[:: max(1, len(found) // PROMPTS)][:PROMPTS]).astype(np.float32)


def doubled(samples: np.ndarray) -> np.ndarray:
    """The same sound at twice the rate: nothing above what was there."""
    return np.fft.irfft(2 * np.fft.rfft(samples), 2 * len(samples))


def noisy(speech: np.ndarray) -> Iterator[np.ndarray]:
    """Each prompt with pink noise of another strength."""
    rng = np.random.default_rng(0)
    for clean in speech:
        spectrum = np.fft.rfft(rng.standard_normal(len(clean)))
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(clean))
        level = np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-rng.uniform(QUIETEST, LOUDEST) / 20)
        yield (clean + level * noise).astype(np.float32)


def spectra(speech: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What NSNet2 reads: log10 of the power of frames, [1, frames, FRAME / 2 + 1] for each prompt."""
    window, feeds = np.sqrt(np.hanning(FRAME + 1)[:-1]), []
    for sound in noisy(speech):
        frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP] * window
        power = np.abs(np.fft.rfft(frames)) ** 2
        feeds.append({"input": np.log10(np.maximum(power, 1e-12)).astype(np.float32)[None, :50]})
    return feeds


def windows(speech: np.ndarray, model: Path) -> list[dict[str, np.ndarray]]:
    """What Silero VAD reads in the middle of each prompt: a step of sound, the end of the one before, and its state."""
    import sardonyx

    session, feeds = sardonyx.Session(str(model)), []
    for sound in noisy(speech):
        state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
        steps = sound[: len(sound) // STEP * STEP].reshape(-1, STEP)
        for step in steps[: len(steps) // 2]:
            each = {"input": np.concatenate([context, step])[None], "state": state, "sr": np.array(RATE, np.int64)}
            _, state = session.run(each)
            context = step[-CONTEXT:]
        feeds.append(each)
    return feeds


def main(package: Path, folder: Path) -> int:
    """Write voices.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    speech = recordings(package)
    np.savez_compressed(folder / "voices.npz", speech=speech)
    print(folder / "voices.npz", speech.shape)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
