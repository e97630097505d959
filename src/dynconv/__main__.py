"""Makes `python -m dynconv` run the command `dynconv`."""

import sys

from dynconv.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
