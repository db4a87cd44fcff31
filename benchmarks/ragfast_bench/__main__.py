"""``python -m ragfast_bench``."""

import sys

from ragfast_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
