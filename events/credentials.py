"""Which settings look like plain credentials, and their refusal: the log never forgets.

Owns where they are looked for and what the refusal says; knows neither which names nor which forms they have.
"""

from __future__ import annotations

from collections.abc import Mapping

from events.argument_credentials import credentials_in, plain_credential
from events.credential_names import names_credential, parts_of
from trainshed_client.errors import Refusals
from trainshed_client.json_limits import Place, cut, invalid, path_of

_ARGUMENTS: Place = (None, "arguments")
_ENVIRONMENT: Place = (None, "environment")
_LABELS: Place = (None, "labels")
_METADATA: Place = (None, "metadata")
_WORKER: Place = (_METADATA, "worker")


def refuse_credentials(config: Mapping[str, object]) -> None:
    """Raise TrainshedError (invalid), by path, for what looks like a credential in arguments, environment, labels and metadata.

    ``config`` is a run config as it was written: what is of another type than it must be is refused by others. No value is
    in the message.
    """
    found = _Credentials()
    environment, metadata = config.get("environment"), config.get("metadata")
    found.in_arguments(config.get("entry_point"), config.get("arguments"), _ARGUMENTS)
    if isinstance(environment, dict):
        found.in_environment(environment)
    found.under_names(config.get("labels"), _LABELS, None)
    found.under_names(metadata, _METADATA, None)
    worker = metadata.get("worker") if isinstance(metadata, dict) else None
    if isinstance(worker, dict):
        found.in_arguments("python3", worker.get("arguments"), (_WORKER, "arguments"))
    found.refused.raise_any()


class _Credentials:
    """What looks like one, as it is found."""

    def __init__(self) -> None:
        self.refused = Refusals()

    def in_arguments(self, program: object, arguments: object, place: Place) -> None:
        if isinstance(arguments, list):
            named = program if isinstance(program, str) else ""
            for index, variable in credentials_in(named, arguments):
                self._add((place, index), variable, f" and let the program read the variable {cut(variable)}")

    def in_environment(self, environment: Mapping[object, object]) -> None:
        for name, value in environment.items():
            if not isinstance(name, str) or not isinstance(value, str):
                continue
            if (value and names_credential(name, any_token=True)) or plain_credential(value):
                self._add((_ENVIRONMENT, name), name)

    def under_names(self, value: object, place: Place, name: str | None) -> None:
        """``name`` is the one that ``value`` stands under, alone or in a list, where it says "credential"."""
        match value:
            case str():
                if value and name is not None:
                    self._add(place, "_".join(parts_of(name)).upper())
            case dict():
                for key, item in value.items():
                    if isinstance(key, str):
                        self.under_names(item, (place, key), key if names_credential(key) else None)
            case list():
                for index, item in enumerate(value):
                    self.under_names(item, (place, index), name)
            case _:
                pass

    def _add(self, place: Place, variable: str, then: str = "") -> None:
        shown, file = cut(variable), "/path/on/the/node"
        self.refused.add(
            invalid(
                path_of(place),
                "this looks like a plain credential, and the event log never forgets. Write instead "
                f'"secrets": {{"{shown}": {{"file": "{file}"}}}} (--secret {shown}=file:{file}), or {{"env": "NAME"}} for a '
                f"variable of the node's agent{then} (if it is no credential, the gateway's setting "
                "TRAINSHED_ALLOW_CREDENTIALS=1 lets it pass)",
            )
        )
