"""Which names count as credentials, and how they are refused."""

from __future__ import annotations

import pytest

from events.credentials import names_credential, refuse_credentials
from tests.support.configs import run_config
from trainshed_client.errors import ErrorCode, TrainshedError

ALWAYS = [
    "api_key", "API_KEY", "WANDB_API_KEY", "wandb-api-key", "Api-Key", "openai_api__key",
    "AWS_SECRET_ACCESS_KEY", "access_key", "S3-Access-Key", "secret_key", "DJANGO_SECRET_KEY",
    "secret", "CLIENT_SECRET", "client-secret", "password", "DB_PASSWORD", "db-password",
    "access_token", "github_access_token", "auth_token", "X-Auth-Token", "API_KEY_",
]  # fmt: skip
IN_ENVIRONMENT = [
    "token", "HF_TOKEN", "hf-token", "GITHUB_TOKEN",
]  # fmt: skip
NEVER = [
    "", "key", "KEY", "public_key", "apikey", "api_key_file", "API_KEYS", "secrets", "secret_name",
    "secretary", "password_file", "passwords", "tokens", "tokenizer", "TOKENIZERS_PARALLELISM",
    "token_count", "max_tokens", "subtoken", "monkey", "api.key", "keyboard", "PATH", "_", "-",
]  # fmt: skip


@pytest.mark.parametrize("name", ALWAYS)
def test_the_last_words_name_a_credential(name: str) -> None:
    assert names_credential(name)
    assert names_credential(name, any_token=True)


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_a_token_is_a_credential_in_an_environment_alone(name: str) -> None:
    assert names_credential(name, any_token=True)
    assert not names_credential(name)


@pytest.mark.parametrize("name", NEVER)
def test_other_names_are_no_credentials(name: str) -> None:
    assert not names_credential(name, any_token=True)


@pytest.mark.parametrize(
    ("config", "path", "variable"),
    [
        ({"environment": {"A": "1", "HF_TOKEN": "hunter2"}}, "environment.HF_TOKEN", "HF_TOKEN"),
        ({"environment": {"my-api-key": "hunter2"}}, "environment.my-api-key", "my-api-key"),
        ({"metadata": {"password": "hunter2"}}, "metadata.password", "PASSWORD"),
        (
            {"metadata": {"a": [{}, {"b": {"db-password": "hunter2"}}]}},
            "metadata.a[1].b.db-password",
            "DB_PASSWORD",
        ),
        ({"metadata": {"secret": ["", "hunter2"]}}, "metadata.secret[1]", "SECRET"),
        (
            {"metadata": {"worker": {"module": "m", "config": {"wandb": {"api_key": "hunter2"}}}}},
            "metadata.worker.config.wandb.api_key",
            "API_KEY",
        ),
    ],
)
def test_a_plain_credential_is_refused_by_path_and_never_shown(
    config: dict[str, object], path: str, variable: str
) -> None:
    with pytest.raises(TrainshedError) as refused:
        run_config({"entry_point": "x", **config})
    assert refused.value.code is ErrorCode.INVALID
    assert refused.value.path == path
    assert f'"secrets": {{"{variable}": {{"file": "/path/on/the/node"}}}}' in refused.value.message
    assert "hunter2" not in str(refused.value)
    run_config({"entry_point": "x", **config}, allow_credentials=True)


def test_what_is_no_plain_credential_passes() -> None:
    refuse_credentials(
        {
            "environment": {"WANDB_API_KEY": "", "TOKENIZERS_PARALLELISM": "false"},
            "metadata": {
                "pad_token": "<pad>",
                "password": "",
                "secret": None,
                "api_key": 5,
                "access_key": {"file": "/k"},
                "auth_token": [],
                "secret_key": True,
            },
        }
    )


def test_a_secret_by_reference_is_accepted_under_any_name() -> None:
    config = run_config(
        {"entry_point": "x", "secrets": {"WANDB_API_KEY": {"file": "/k"}, "HF_TOKEN": {"env": "HF"}}}
    )
    assert config.launch()["secrets"] == {"WANDB_API_KEY": {"file": "/k"}, "HF_TOKEN": {"env": "HF"}}
