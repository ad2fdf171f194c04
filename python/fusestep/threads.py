"""Lets threadpoolctl, where it is installed, see fusestep's threads and limit them."""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Makes ``threadpool_info()`` list fusestep, and ``threadpool_limits()`` hold for it."""
    try:
        import threadpoolctl
    except ImportError:
        return
    if not hasattr(threadpoolctl, "register"):  # before version 3.2
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = internal_api = "fusestep"
        filename_prefixes = ("_core",)
        check_symbols = ("fusestep_get_num_threads", "fusestep_set_num_threads")

        def get_num_threads(self) -> Any:
            return self.dynlib.fusestep_get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fusestep_set_num_threads(num_threads)

        def get_version(self) -> str:
            from ._core import build_info

            return str(build_info()["version"])

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(Controller)
