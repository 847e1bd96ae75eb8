"""Python loads this first where its folder is on PYTHONPATH; other processes than stages are left alone."""

import os
import sys

if "BITLADDER_TRACE" in os.environ and len(sys.orig_argv) > 1:
    from pathlib import Path

    folder = Path(os.environ["BITLADDER_TRACE"])
    if sys.orig_argv[1].startswith("stages/"):
        import atexit

        from stage_clock import trace

        atexit.register(trace(folder, sys.orig_argv[1:]))
    elif "bitladder.running.forkserver" in sys.orig_argv:  # its forks run the stages' scripts by this
        import runpy

        run_path = runpy.run_path

        def traced(path: str, **settings: object) -> None:
            """Run a stage's script in a fork, with clocks."""
            from stage_clock import trace

            write = trace(folder, sys.argv)
            try:
                run_path(path, **settings)
            finally:
                write()

        runpy.run_path = traced
