"""`python -m lesionpipe`: the same as the command `lesionpipe`, always of the checkout in the working folder."""

from lesionpipe.cli import app
from lesionpipe.core.errors import run

if __name__ == "__main__":
    run(app)
