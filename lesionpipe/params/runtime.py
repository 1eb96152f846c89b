"""Section `runtime`: facts of the machine, tracked by no stage."""

from typing import Literal

from pydantic import Field

from lesionpipe.params.section import Section


class Runtime(Section):
    workers: int = Field(ge=0)
    downloads: int = Field(ge=1, le=32)
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"]
    devices: int = Field(ge=1)
    nodes: int = Field(ge=1)
    cluster: str | None = Field(pattern=r"^(tcp|tls|ucx|ws|wss)://.")
