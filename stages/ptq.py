"""ptq@R: a rung quantized after training, by the techniques that params.yaml asks for."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.ptq", torch=True)
