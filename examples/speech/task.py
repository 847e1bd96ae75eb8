"""Does somebody speak? Silero's voice activity detector, on sentences that eSpeak NG says amid noise and tones.

Its spectrum stays on the host: that is the root of squares, of which 16 bits hold little where a sound is quiet.
"""

import ctypes
from importlib.metadata import files
from pydoc_data.topics import topics

import numpy as np
import torch
from onnx.utils import extract_model
from torch import Tensor

from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import SPLITS, Metric, Split, Task

RATE, STEP, CONTEXT, STATE = 16_000, 512, 64, 128
VOICES = ("en", "en+f2", "en+f4", "en+m3", "en-us+m7", "de", "de+f3", "fr", "fr+f5", "it+m2", "es+f1", "pl")
SPECTRUM = "/stft/Sqrt_output_0"
FRONT = OnnxModel("front.onnx", shapes={"input": [1, CONTEXT + STEP]})  # stays on the host
MODEL = OnnxModel("net.onnx", shapes={SPECTRUM: [1, 129, 4]})


def task(samples: int) -> Task:
    return Task(MODEL, lambda seed: splits(seed, samples), no_loss, Metric("accuracy", accuracy))


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Give spectra of 32 ms, each with the state that the float network comes to it with."""
    draw, found = np.random.default_rng(seed), {}
    front, network, say = FRONT(), MODEL(), speaker()
    for name in SPLITS:
        sound, speech = stream(samples * STEP + CONTEXT, say, draw)
        spectra = front(torch.from_numpy(sound).unfold(0, CONTEXT + STEP, STEP).clone())[SPECTRUM]
        states = {"h": torch.zeros(samples, 1, STATE), "c": torch.zeros(samples, 1, STATE)}
        for step in range(samples - 1):
            now = slice(step, step + 1)
            outputs = network(spectra[now], states["h"][now], states["c"][now])
            states["h"][step + 1], states["c"][step + 1] = outputs["hn"][0], outputs["cn"][0]
        found[name] = Split({SPECTRUM: spectra, **states}, torch.from_numpy(speech[CONTEXT + STEP // 2 :: STEP]))
    return found


def stream(length: int, say, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give sound, and for each value whether it is of a sentence; sentences take turns with noise, tones, silence."""
    sentences = sorted({" ".join(line.split()) for text in topics.values() for line in text.split(". ")})
    parts, speech = [], []
    while sum(map(len, parts)) < length:
        voice = say(str(draw.choice(sentences))[:80], str(draw.choice(VOICES)))
        loud = np.flatnonzero(np.abs(voice) > 0.02 * np.abs(voice).max())
        voice = voice[loud[0] : loud[-1]] * draw.uniform(0.1, 0.5) / np.abs(voice).max()
        time = np.arange(int(draw.uniform(0.5, 3) * RATE)) / RATE
        other = {
            "noise": draw.normal(0, draw.uniform(0.01, 0.1), len(time)),
            "tones": sum(0.1 * np.sin(2 * np.pi * hertz * time) for hertz in draw.uniform(100, 4000, 3)),
            "silence": np.zeros(len(time)),
        }[str(draw.choice(["noise", "tones", "silence"]))]
        parts += [other, voice]
        speech += [np.zeros(len(other), np.int64), np.ones(len(voice), np.int64)]
    sound = np.concatenate(parts)[:length] + draw.normal(0, 0.003, length)
    return sound.astype(np.float32), np.concatenate(speech)[:length]


def speaker():
    """Give a function that says a text in a voice: eSpeak NG's library, which brings a voice for each language."""
    import espeakng_loader

    library, heard = ctypes.CDLL(espeakng_loader.get_library_path()), list[np.ndarray]()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(values, count, events):
        if values and count > 0:
            heard.append(np.ctypeslib.as_array(values, (count,)).copy())
        return 0

    rate = library.espeak_Initialize(1, 0, espeakng_loader.get_data_path().encode(), 0)  # 1: to the function, not aloud
    library.espeak_SetSynthCallback(hear)

    def say(text: str, voice: str, hear=hear) -> np.ndarray:  # eSpeak NG holds no reference to `hear`
        heard.clear()
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_Synth(text.encode(), len(text.encode()) + 1, 0, 1, 0, 1, None, None)
        library.espeak_Synchronize()
        sound = np.concatenate(heard) / 2**15
        return np.interp(np.arange(0, len(sound), rate / RATE), np.arange(len(sound)), sound)

    return say


def accuracy(outputs: dict[str, Tensor], speech: Tensor) -> Tensor:
    return ((outputs["speech_probs"] > 0.5).long() == speech).double()


if __name__ == "__main__":  # takes the network out of its package, in two parts
    name = "silero_vad_16k_sequence.onnx"
    source = next(str(file.locate()) for file in files("silero-vad") or () if file.name == name)
    extract_model(source, "front.onnx", ["input"], [SPECTRUM])
    extract_model(source, "net.onnx", [SPECTRUM, "h", "c"], ["speech_probs", "hn", "cn"])
