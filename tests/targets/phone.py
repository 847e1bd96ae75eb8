"""Stand-ins for a phone: an `adb` that keeps a folder as the phone, and a QAIRT SDK.

The phone's commands run on this machine, and its `qnn-net-run` runs what it was given by the emulator, with files in
the form that the SDK's documentation and its sample application have.
"""

import json
import shutil
import sys
from pathlib import Path

__all__ = ["SERIAL", "make_phone", "make_sdk", "set_devices"]

SERIAL = "R3CT30ABCDE"
QAIRT = "v2.51.0.260929181845"

ADB = """#!{python} -S
import errno, json, os, shutil, subprocess, sys
devices = json.load(open({state!r}))
words = sys.argv[1:]
serial = words[1] if words[0] == "-s" else None
words = words[2:] if serial else words
def end(said):
    print(said, file=sys.stderr)
    sys.exit(1)
if words == ["devices"]:
    print("List of devices attached", *(f"{{name}}\\t{{state}}" for name, state in devices.items()), "", sep="\\n")
elif devices.get(serial) != "device":
    end(f"error: device '{{serial}}' not found")
elif words[0] == "push":
    for file in words[1:-1]:
        try:
            shutil.copy(file, words[-1])
        except OSError as error:
            said = f"adb: error: failed to copy '{{file}}' to '{{words[-1]}}': remote {{os.strerror(error.errno)}}"
            end(f"{{said}}\\n{{file}}: 0 files pushed, 0 skipped.")
elif words[0] == "pull":
    shutil.copy(*words[1:])
elif words[0] == "shell":
    sys.exit(subprocess.run(["sh", "-c", *words[1:]], stdin=subprocess.DEVNULL).returncode)
else:
    end(f"adb: unknown command {{words[0]}}")
"""

NET_RUN = """#!{python}
import json, os, pathlib, sys, time
sys.path.insert(0, {src!r})
words = sys.argv[1:]
asked = {{word: next(iter(words[place + 1 :]), "") for place, word in enumerate(words) if word.startswith("--")}}
for needed in ("libQnnHtp.so", "libQnnSystem.so", "libQnnHtpV75Stub.so", "libQnnHtpV75Skel.so"):
    if not pathlib.Path(needed).is_file():
        sys.exit(f"[ERROR] no {{needed}}")
if os.environ["LD_LIBRARY_PATH"] != os.getcwd() or not os.environ["ADSP_LIBRARY_PATH"].startswith(os.getcwd() + ";"):
    sys.exit("[ERROR] Failed to load skel, error: 4000")
if said := pathlib.Path({broken!r}).read_text():
    sys.exit(said)
import numpy as np
from bitladder.targets.binary import read_tensors
from bitladder.targets.runner import Model, open_session
binary = pathlib.Path(asked["--retrieve_context"])
wrapper = next(
    path for path in pathlib.Path({search!r}).rglob("model_ctx.onnx")
    if path.with_name(binary.name).is_file() and path.with_name(binary.name).read_bytes() == binary.read_bytes()
)
session = open_session(Model(str(wrapper), False, "SM8650", 57, "v75"))
takes, gives = read_tensors(binary)
rows = [dict(part.split(":=") for part in line.split()) for line in open(asked["--input_list"])]
out, runs = pathlib.Path(asked["--output_dir"]), int(asked.get("--num_inferences") or len(rows))
times = []
for index in range(runs):
    files = rows[index % len(rows)]
    inputs = {{one.name: np.fromfile(files[one.name], one.dtype).reshape(one.shape) for one in takes}}
    start = time.perf_counter()
    values = session.run([one.name for one in gives], inputs)
    times.append(round((time.perf_counter() - start) * 1e6))
    if index < int(asked.get("--keep_num_outputs", runs)):
        folder = out / f"Result_{{index}}"
        folder.mkdir(parents=True)
        for one, value in zip(gives, values):
            ending = ".raw" if one.dtype == np.float32 else "_native.raw"
            value.tofile(folder / (one.name.replace("/", "_") + ending))
if "--profiling_level" in asked:
    (out / "qnn-profiling-data_0.log").write_text(json.dumps(times))
"""

VIEWER = """#!{python} -S
import json, sys
asked = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(asked["--output"], "w") as file:
    print("Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier", file=file)
    print("1,INIT,331158,US,NETRUN,ROOT,", file=file)
    for number, time in enumerate(json.load(open(asked["--input_log"]))):
        print(f"{{number}},EXECUTE,{{time}},US,NETRUN,ROOT,Graph 0: graph", file=file)
        print(f"{{number}},EXECUTE,{{time // 2}},US,BACKEND,ROOT,QNN accelerator (execute) time", file=file)
"""

GETPROP = "#!/bin/sh\ncase $1 in ro.product.model) echo SM-S921B;; ro.soc.model) echo SM8650;; esac\n"

DUMPSYS = """#!/bin/sh
cat <<END
IsStatusOverride: false
Thermal Status: 1
Cached temperatures:
 Temperature{mValue=99.5, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
 Temperature{mValue=41.5, mType=0, mName=CPU0, mStatus=0}
 Temperature{mValue=36.0, mType=3, mName=SKIN, mStatus=0}
 Temperature{mValue=3900.0, mType=6, mName=vbat, mStatus=0}
Current cooling devices from HAL:
 CoolingDevice{mValue=0, mType=2, mName=cpu}
END
"""


def make_phone(folder: Path) -> Path:
    """Write the stand-in `adb` and the phone's own commands; give the folder that goes into PATH."""
    folder.mkdir()
    set_devices(folder, {SERIAL: "device"})
    for name, text in (
        ("adb", ADB.format(python=sys.executable, state=str(folder / "devices.json"))),
        ("getprop", GETPROP),
        ("dumpsys", DUMPSYS),
    ):
        _program(folder / name, text)
    return folder


def set_devices(folder: Path, devices: dict[str, str]) -> None:
    """Say which devices the stand-in sees, and in which state."""
    (folder / "devices.json").write_text(json.dumps(devices))


def make_sdk(folder: Path, search: Path, version: str = QAIRT) -> Path:
    """Write what bitladder takes of an SDK. Its qnn-net-run finds under `search` what a context binary was made with.

    What stands in the file `broken` of the SDK is what qnn-net-run fails with.
    """
    shutil.rmtree(folder, ignore_errors=True)
    src, broken = str(Path(__file__).parents[2] / "src"), folder / "broken"
    net_run = NET_RUN.format(python=sys.executable, src=src, broken=str(broken), search=str(search))
    _program(folder / "bin/aarch64-android/qnn-net-run", net_run)
    _program(folder / "bin/x86_64-linux-clang/qnn-profile-viewer", VIEWER.format(python=sys.executable))
    for name in ("libQnnHtp", "libQnnSystem", "libQnnHtpV75Stub"):
        path = folder / f"lib/aarch64-android/{name}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {version} ")
    skel = folder / "lib/hexagon-v75/unsigned/libQnnHtpV75Skel.so"
    skel.parent.mkdir(parents=True)
    skel.write_text("skel")
    broken.write_text("")
    return folder


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
