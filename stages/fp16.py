"""fp16: the network converted to FP16, its answers, and its ONNX."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.fp16", torch=True)
