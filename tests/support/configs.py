"""Run configs as most tests look at them: the checked value alone, and the name of any."""

from __future__ import annotations

from events.canonical import Digest, digest_of_json
from events.config import RunConfig
from events.config_input import accepted_config


def run_config(raw: object, *, allow_credentials: bool = False) -> RunConfig:
    """What is made of ``raw`` where it is accepted."""
    return accepted_config(raw, allow_credentials=allow_credentials).config


def digest_of(config: RunConfig) -> Digest:
    """The digest and run id of ``config``: the same for every way to write the same config."""
    return digest_of_json(config.normalised())
