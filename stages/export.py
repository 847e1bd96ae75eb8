"""export@R: the rung as QDQ ONNX and as AIMET encodings, checked against the QuantSim's own outputs."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.export", torch=True)
