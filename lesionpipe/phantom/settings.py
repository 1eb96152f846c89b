"""What a phantom is drawn from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PhantomSettings:
    """The same settings give the same bytes."""

    seed: int
    patients_per_part: int  # at least 3: one of each split
    key_slices_per_patient: int  # on average
    image_size: int  # px, side of the slices
    extra_test_patients: int = 0  # further test patients of each part, at most 100; the others stay as they are

    @property
    def patients(self) -> int:
        """All patients of a part."""
        return self.patients_per_part + self.extra_test_patients
