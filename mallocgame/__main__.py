"""``python -m mallocgame`` is the command line."""

from mallocgame.cli import main

if __name__ == "__main__":
    main()
