"""The address of a `tf.data` service, checked before anything slow is imported."""

from __future__ import annotations

import re

from errors import UserError

_ADDRESS = re.compile(r"grpc://((?:\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5}))")


def host_and_port(address: str, flag: str = "--data_service") -> str:
    """`HOST:PORT` of `grpc://HOST:PORT`.

    Raises:
        UserError: `address` is not of this form.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[2]) < 65536:
        raise UserError(
            f"{flag} must be grpc://HOST:PORT, the dispatcher of a tf.data service, such as grpc://10.0.0.5:5050. "
            f"Received: {flag}={address}."
        )
    return match[1]
