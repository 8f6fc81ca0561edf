"""OpenVINO as an engine: conversion, eight-bit numbers, running.

Nothing else imports openvino and nncf. Both are extras (`pip install 'ssd1b[openvino]'`), so this file
imports neither.
"""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from ssd1b.base.errors import RequestError

INSTALL = "pip install 'ssd1b[openvino]'"


def installed() -> bool:
    """Whether OpenVINO can be imported here."""
    return find_spec("openvino") is not None


def version() -> str:
    """The installed version of OpenVINO."""
    return metadata.version("openvino")


def needed(package: str = "openvino") -> None:
    """Refuse, in a sentence, to go on without the package; to be called before its first import.

    The tools of OpenVINO report their use to their maker unless its reporting package cannot be imported;
    from here on it cannot.

    Raises:
        RequestError: it is not installed.
    """
    if find_spec(package) is None:
        raise RequestError(f"The OpenVINO engine needs the package {package}. Install it: {INSTALL}.")
    loaded: dict[str, Any] = sys.modules
    loaded.setdefault("openvino_telemetry", None)
