"""Commands of `lesionpipe`; `cli.py` puts them together."""
