"""Run ``sdegen status`` from a checkout."""

from sdegen.cli.main import main

if __name__ == "__main__":
    main("status")
