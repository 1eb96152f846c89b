"""What a phantom is drawn from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PhantomSettings:
    """The same settings give the same bytes."""

    seed: int
    patients_per_part: int  # at least 3: one of each split
    key_slices_per_patient: int  # on average
    image_size: int  # px, side of the slices
