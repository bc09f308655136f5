"""`python -m clipkit` and `accelerate launch -m clipkit` are the command line."""

from clipkit.cli import main

main()
