"""``python -m ragfast``."""

import sys

from ragfast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
