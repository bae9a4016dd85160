"""`python -m lekhani`, for torchrun and the like."""

from lekhani.cli import main

main()
