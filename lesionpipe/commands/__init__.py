"""Commands of `lesionpipe`, one module each; `cli.py` puts them together."""
