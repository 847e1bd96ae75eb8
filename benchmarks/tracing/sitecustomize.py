"""Python loads this first where its folder is on PYTHONPATH; other processes than stages are left alone."""

import os
import sys

if "BITLADDER_TRACE" in os.environ and len(sys.orig_argv) > 1 and sys.orig_argv[1].startswith("stages/"):
    from pathlib import Path

    from stage_clock import trace

    trace(Path(os.environ["BITLADDER_TRACE"]), sys.orig_argv)
