"""A phone over adb as a target, by QAIRT's qnn-net-run: inputs go there as raw files, and outputs come back so."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bitladder.errors import UserError
from bitladder.records import Device
from bitladder.targets.android import android_state
from bitladder.targets.backend import Row
from bitladder.targets.binary import Tensor, read_tensors
from bitladder.targets.context import Compiled
from bitladder.targets.phone import Phone, find_phone
from bitladder.targets.qairt import Sdk, find_sdk, older
from bitladder.targets.remote import Connect, Remote
from bitladder.targets.runner import MODE, qairt_of

__all__ = ["Adb", "Session"]

LIST, OUTPUTS, LOG = "list.txt", "outputs.raw", "qnn-profiling-data_0.log"

SEARCH = "/vendor/dsp/cdsp;/vendor/lib/rfsa/adsp;/system/lib/rfsa/adsp;/dsp"
"""Where Android has libraries of the DSP; the SDK's own come first."""


@dataclass(frozen=True)
class Adb(Remote):
    """The NPU of the device that `target.serial` names, or of the only one that adb sees."""

    @property
    def place(self) -> str:
        """The key that names it."""
        return f"target.serial: {self.settings.serial}" if self.settings.serial else "target.backend: adb"

    def check(self) -> None:
        """Raise UserError where there is no device, or no SDK with what it needs."""
        find_phone(self.settings.serial)
        find_sdk(self.settings.qairt).device_files(self.soc.arch)

    @contextmanager
    def installed(self, compiled: Compiled, fp16: bool, workspace: Path) -> Iterator[Connect]:
        """Bring the context binary and the SDK's part there. The device is asked anew at each try."""
        phone, sdk = find_phone(self.settings.serial), find_sdk(self.settings.qairt)
        (binary,) = compiled.context.parent.glob("*.bin")
        if older(sdk.version, made := qairt_of(binary)):
            raise UserError(f"target.qairt: is QAIRT {sdk.version}, and {made} compiled the model: take a newer SDK")
        with phone.folder([*sdk.device_files(self.soc.arch), binary]) as folder:
            session = Session(phone, sdk, folder, binary, workspace, self.settings.sample_limit_s)
            yield lambda: nullcontext(session)


@dataclass(frozen=True)
class Session:
    """A context binary on a device, in a folder with what runs it."""

    phone: Phone
    sdk: Sdk
    folder: str
    binary: Path
    workspace: Path
    limit_s: float

    def run(self, inputs: Row, samples: int) -> Row:
        """Run samples; give their outputs."""
        takes, gives = self.tensors()
        self._send(takes, inputs, samples)
        limit_s = self.limit_s * samples
        self._net_run("--log_level error", limit_s)
        joined = "; ".join(_printing(one.name) for one in gives)
        self.phone.shell(
            f"cd {self.folder} && for i in $(seq 0 {samples - 1}); do {joined}; done > {OUTPUTS} && rm -rf out", limit_s
        )
        with TemporaryDirectory(dir=self.workspace) as here:
            self.phone.pull(f"{self.folder}/{OUTPUTS}", Path(here) / OUTPUTS)
            return self._read(gives, Path(here) / OUTPUTS, samples)

    def time(self, inputs: Row, warmup: int, runs: int) -> tuple[list[float], Device]:
        """Time inferences of one sample, as qnn-net-run sees them."""
        self._send(self.tensors()[0], inputs, 1)
        before = android_state(self.phone)
        asked = f"--num_inferences {warmup + runs} --keep_num_outputs 1 --profiling_level basic"
        self._net_run(asked, self.limit_s * (warmup + runs))
        state = android_state(self.phone)
        times, untold = self._times(warmup + runs)
        return times[warmup:], Device(
            name=state.name,
            runtime=f"qnn-net-run of QAIRT {self.sdk.version or 'of no known version'}",
            qairt=self.sdk.version,
            performance_mode=MODE,
            governor=state.governor,
            celsius_before=before.celsius,
            celsius_after=state.celsius,
            throttling=state.throttling,
            warmup=warmup if times else None,
            runs=runs if times else None,
            untold="; ".join([*untold, *state.untold]) or None,
        )

    def _times(self, inferences: int) -> tuple[list[float], list[str]]:
        """Read the profiling log; where that fails, outputs are what they are, and why is told."""
        with TemporaryDirectory(dir=self.workspace) as here:
            self.phone.pull(f"{self.folder}/out/{LOG}", Path(here) / LOG)
            try:
                times = self.sdk.times(Path(here) / LOG)
            except UserError as error:
                return [], [str(error)]
        if len(times) != inferences:
            return [], [f"the profiling log tells of {len(times)} inferences, and {inferences} ran"]
        return times, []

    def _net_run(self, more: str, limit_s: float) -> None:
        """Run what the list names; the outputs are in `out` there."""
        self.phone.shell(
            f"cd {self.folder} && chmod 755 qnn-net-run && rm -rf out && LD_LIBRARY_PATH=$PWD"
            f' ADSP_LIBRARY_PATH="$PWD;{SEARCH}" ./qnn-net-run --backend libQnnHtp.so'
            f" --retrieve_context {self.binary.name} --input_list {LIST} --output_dir out --use_native_input_files"
            f" --use_native_output_files --perf_profile {MODE} {more}",
            limit_s,
        )

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Give what the graph takes and gives. Raise UserError where qnn-net-run could not be told of it."""
        try:
            found = read_tensors(self.binary)
        except ValueError as error:
            raise UserError(f"{self.binary}: what it takes and gives is not known here: {error}") from None
        if found is None:
            raise UserError(f"{self.binary}: this onnxruntime-qnn does not tell what it takes and gives")
        if odd := [one.name for one in (*found[0], *found[1]) if re.search(r"[\s'\"$`\\]|:=|\.\.", one.name)]:
            raise UserError(f"{self.binary}: {odd[0]!r}: qnn-net-run takes no such name; rename the input or output")
        return found

    def _send(self, takes: Sequence[Tensor], inputs: Row, samples: int) -> None:
        """Write inputs as the graph takes them, in files by their numbers, and the list that names them."""
        with TemporaryDirectory(dir=self.workspace) as name:
            here, lines = Path(name), []
            for index in range(samples):
                files = {one.name: f"{index}_{number}.raw" for number, one in enumerate(takes)}
                for one in takes:
                    values = inputs[one.name][index : index + 1]
                    if values.dtype != one.dtype or values.shape != one.shape:
                        raise UserError(
                            f"{self.binary}: {one.name} takes {one.dtype} {one.shape}, and a sample has"
                            f" {values.dtype} {values.shape}"
                        )
                    (here / files[one.name]).write_bytes(np.ascontiguousarray(values).tobytes())
                lines.append(" ".join(f"{one}:={file}" for one, file in files.items()))
            (here / LIST).write_text("\n".join(lines) + "\n", "utf-8")
            self.phone.push(sorted(here.iterdir()), self.folder)

    def _read(self, gives: Sequence[Tensor], path: Path, samples: int) -> Row:
        """Take outputs apart that lie one after the other: sample by sample, in the graph's order."""
        content, each = path.read_bytes(), sum(one.nbytes for one in gives)
        if len(content) != each * samples:
            raise UserError(f"{self.phone.place}: {len(content)} bytes came back, of {samples} samples of {each} each")
        whole = np.frombuffer(content, np.uint8).reshape(samples, each)
        outputs, start = {}, 0
        for one in gives:
            part = np.ascontiguousarray(whole[:, start : start + one.nbytes])
            outputs[one.name] = part.view(one.dtype).reshape(samples * one.shape[0], *one.shape[1:]).copy()
            start += one.nbytes
        return outputs


def _printing(output: str) -> str:
    """Give the command that prints an output of sample $i.

    qnn-net-run adds `_native` to the names of those that are no float32; it may write a name such as a/b as a_b.
    """
    names = dict.fromkeys((re.sub(r"\W", "_", output), output))
    files = " ".join(f'"out/Result_$i/{name}{end}.raw"' for name in names for end in ("_native", ""))
    return f'for file in {files}; do [ -f "$file" ] && break; done; cat "$file" || exit 1'
