"""``python -m streamgmm``."""

from streamgmm.cli import main

if __name__ == "__main__":
    main()
