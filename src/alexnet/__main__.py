"""python -m alexnet: the command line, for torchrun."""

from alexnet.cli import main

if __name__ == "__main__":
    main()
