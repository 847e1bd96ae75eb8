"""fp16: the network in FP16, as ONNX and with its outputs."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.fp16", torch=True)
