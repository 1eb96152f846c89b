"""What a stage that runs once per part is called with."""

import sys
from collections.abc import Sequence

from lesionpipe.core.errors import UserError


def part_argument(stage: str, parts: Sequence[str]) -> str:
    """The part in `python -m stages.STAGE NN`.

    Raises:
        UserError: there is none or more than one, or it isn't among `parts`.
    """
    if len(sys.argv) != 2:
        raise UserError(f"usage: python -m stages.{stage} NN, where NN is one of dataset.parts ({', '.join(parts)})")
    if sys.argv[1] not in parts:
        raise UserError(f'part "{sys.argv[1]}" is not in dataset.parts ({", ".join(parts)})')
    return sys.argv[1]
