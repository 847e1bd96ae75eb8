"""`olive`, without what its telemetry waits for at its end, two seconds where there is no network: it is no work.

Run in Olive's environment: python run.py run --config FILE
"""

import sys

from olive.cli.launcher import main
from olive.telemetry.telemetry import Telemetry

Telemetry.shutdown = lambda self, *_, **__: None

if __name__ == "__main__":
    sys.exit(main())
