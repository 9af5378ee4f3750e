"""`python -m pressft` is `pressft`."""

from pressft.cli import main

main()
