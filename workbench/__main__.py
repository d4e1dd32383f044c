"""``python -m workbench``: the command line where no script is installed."""

from workbench.cli import main

main()
