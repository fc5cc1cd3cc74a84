"""``python -m tokenflight``: the same as the ``tokenflight`` command."""

from tokenflight.cli import main

if __name__ == "__main__":
    main()
