"""Run ``python -m sdegen train …``, the same as ``sdegen train …``."""

from sdegen.cli.main import main

if __name__ == "__main__":
    main()
