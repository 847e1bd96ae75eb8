"""track: the metrics files, sent to MLflow. `bitladder track` does the same."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.track")
