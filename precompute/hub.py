"""The model hub, where there is one: without a network, its cache is all there is."""

from __future__ import annotations

import logging
import socket
from urllib.parse import urlsplit

from huggingface_hub import constants


def settle() -> None:
    """Ask once whether the hub's name can be resolved. If not, use the cache alone: a model that
    is not in it is then refused at once, not after a minute of retries."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if constants.HF_HUB_OFFLINE:
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
