"""`python -m lesionpipe`: the same as the command `lesionpipe`, always of the checkout in the working folder."""

from lesionpipe.cli import run_command

if __name__ == "__main__":
    run_command()
