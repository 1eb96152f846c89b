"""Section `phantom`: the synthetic DeepLesion."""

from pydantic import Field

from lesionpipe.params.section import Section, Seed


class Phantom(Section):
    seed: Seed
    patients_per_part: int = Field(ge=3, le=9999)
    extra_test_patients: int = Field(ge=0, le=100)
    key_slices_per_patient: int = Field(ge=1, le=50)
    image_size: int = Field(ge=64, le=1024)
