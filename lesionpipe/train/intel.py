"""Intel's GPUs (`xpu` in torch) as one device of Fabric, which doesn't know them. Untested on such a GPU."""

import torch
from lightning_fabric.accelerators import Accelerator


class IntelAccelerator(Accelerator):
    """The first Intel GPU; what Fabric asks of any kind of device."""

    def setup_device(self, device: torch.device) -> None:
        torch.xpu.set_device(device)

    def teardown(self) -> None:
        torch.xpu.empty_cache()

    @staticmethod
    def parse_devices(devices: int) -> int:
        return devices

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [torch.device("xpu", index) for index in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return torch.xpu.is_available()

    @staticmethod
    def name() -> str:
        return "xpu"
