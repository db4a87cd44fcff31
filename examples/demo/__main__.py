"""``python examples/demo``: the main job on real input."""

import sys

from ragfast_demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
