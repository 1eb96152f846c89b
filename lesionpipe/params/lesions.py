"""Section `lesions`: which annotated lesions count."""

from typing import Literal

from lesionpipe.params.section import Section


class Lesions(Section):
    noisy: Literal["keep", "drop"]
