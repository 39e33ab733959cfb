"""``python -m mallocgame`` is the command line."""

import os
import sys

if __name__ == "__main__":
    checkout = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != checkout:
        del sys.path[0]  # where we are: a logging.py there, say, is no library; plugins are found there all the same

    from mallocgame.cli import main

    main()
