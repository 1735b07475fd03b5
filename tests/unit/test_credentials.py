"""Which names count as credentials, and how they are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.argument_credentials import credentials_in
from events.credential_names import names_credential
from events.credentials import refuse_credentials
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


ARGUMENTS: list[tuple[list[str], int]] = [
    (["train.py", "--api-key=hunter2"], 1),
    (["train.py", "--api-key", "hunter2"], 2),
    (["--api_key", "hunter2", "--seed", "1"], 1),
    (["-api-key", "hunter2"], 1),
    (["--apiKey=hunter2"], 0),
    (["--wandb.api_key=hunter2"], 0),
    (["+trainer.logger.api_key=hunter2"], 0),
    (["password='hunter2'"], 0),
    (["--password", "hunter2"], 1),
    (["--secret-key", "hunter2"], 1),
    (["--token", "hunter2"], 1),
    (["--hub_token=hunter2"], 0),
    (["--hf-token", "hunter2"], 1),
    (["--access-token=hunter2"], 0),
    (["HF_TOKEN=hunter2", "python3", "train.py"], 0),
    (["WANDB_API_KEY=hunter2"], 0),
    (["-H", "X-Api-Key: hunter2"], 1),
    (["-H", "Authorization: Bearer hunter2"], 1),
    (["--header=Authorization: Bearer hunter2"], 0),
    (["--auth", "Bearer hunter2"], 1),
    (["--auth=bearer hunter2"], 0),
    (["-H", "authorization: Basic aHVudGVyMg=="], 1),
    (["--db", "postgres://ada:hunter2@db:5432/runs"], 1),
    (["https://x-access-token:hunter2@github.com/a/b.git"], 0),
    (["--url=redis://:hunter2@cache/0"], 0),
    (["https://api.example/v1?user=a&api_key=hunter2"], 0),
    (["bash", "-c", "WANDB_API_KEY=hunter2 python3 train.py"], 2),
    (["sh", "-lc", "cd /srv && python3 train.py --api-key hunter2 --seed 1"], 2),
    (["/bin/sh", "-e", "-c", 'export HF_TOKEN="hunter2"; python3 t.py'], 3),
    (["sh", "-c", "curl -H 'Authorization: Bearer hunter2' https://x/y"], 2),
]
INNOCENT: list[list[str]] = [
    ["--token-budget", "5"], ["--max-tokens=512"], ["--tokenizer", "gpt2"], ["--tokenizer=gpt2"], ["--tokens", "5"],
    ["--pad-token", "<pad>"], ["--eos_token=</s>"], ["--mask-token", "[MASK]"], ["--image-token", "<image>"],
    ["--api-key-file", "/run/secrets/key"], ["--password-file=/run/secrets/p"], ["--secrets-dir", "/run/secrets"],
    ["--api-key", "--seed", "1"], ["--api-key="], ["--api-key"], ["--api-key", ""], ["--api-key=$WANDB_API_KEY"],
    ["--api-key", "${WANDB_API_KEY}"], ["--use-auth-token", "True"], ["--use_auth_token=false"], ["--no-password", "runs"],
    ["--key", "abc"], ["--public-key=ssh"], ["--monkey=1"], ["--keyboard", "us"], ["secretary=ada"],
    ["--prompt", "the bearer of good news"], ["--text", "Bearer of bad news, she left"], ["--bearer"],
    ["--text", "password: what is it, and where"], ["--note", "a secret is kept"],
    ["https://example.org:8080/a@b"], ["ssh://git@github.com:22/a/b"], ["s3://bucket/a:b@c"], ["--master=tcp://10.0.0.1:29500"],
    ["docker://image:tag@sha256:0123"], ["postgres://ada@db/runs"], ["postgres://ada:$PASSWORD@db/runs"], ["user@host:/path"],
    ["https://api.example/v1?token_budget=5&keys=a"], ["--lr", "1e-4"], ["-c", "password = 5"], ["-c", "login(password=x)"],
    ["sh", "-c", 'python3 train.py --api-key "$WANDB_API_KEY" --max-tokens 5'], ["sh", "-c", "exec train --pad-token x"],
    ["--secret", "HF_TOKEN=file:/run/hf"],
    ["sh", "-c", "trainshed submit --secret HF_TOKEN=env:HF --secret API_KEY=file:/k -- train"],
    ["--api-key", "/run/secrets/key"], ["--secret-key=~/.ssh/key.pem"], ["--password", "./password.txt"], ["--api-key={{run_dir}}/key"],
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "place"), ARGUMENTS, ids=repr)
def test_a_credential_in_arguments_is_refused_by_its_place_and_never_shown(
    arguments: list[str], place: int
) -> None:
    for config, path in (
        ({"entry_point": "x", "arguments": arguments}, f"arguments[{place}]"),
        (
            {"metadata": {"worker": {"script": "x", "arguments": arguments}}},
            f"metadata.worker.arguments[{place}]",
        ),
    ):
        with pytest.raises(TrainshedError) as refused:
            run_config(config)
        assert [wrong.path for wrong in refused.value.errors] == [path]
        assert "hunter2" not in str(refused.value)
        assert "let the program read the variable" in refused.value.message
        run_config(config, allow_credentials=True)


@pytest.mark.parametrize("arguments", INNOCENT, ids=repr)
def test_an_innocent_argument_is_none(arguments: list[str]) -> None:
    assert list(credentials_in("python3", arguments)) == []


def test_the_script_of_a_shell_is_looked_into_when_that_is_the_program() -> None:
    script = ["-c", "cd /srv; WANDB_API_KEY=hunter2 python3 train.py"]
    assert list(credentials_in("/bin/bash", script)) == [(1, "WANDB_API_KEY")]
    assert list(credentials_in("/usr/bin/python3", script)) == []


@given(st.lists(st.text() | st.from_regex(r"[-+]{0,2}[a-z_.-]{0,9}[=: ]{0,2}[a-zB$@:/'\"]{0,9}"), max_size=4))
def test_any_arguments_are_looked_at(arguments: list[str]) -> None:
    assert all(0 <= place < len(arguments) for place, _ in credentials_in("sh", arguments))


@pytest.mark.parametrize(
    "text", ["a", " ", "a:", "://", "a://", "bearer ", '"', "'\"", "=", "&a=", "authorization ", "-"]
)
def test_a_long_argument_costs_no_more_than_its_length(text: str) -> None:
    long = text * (200_000 // len(text))
    assert len(list(credentials_in("sh", ["-c", long, f"x://{long}", f"{long}://a"]))) <= 3


@pytest.mark.parametrize(
    ("config", "path", "variable"),
    [
        (
            {"environment": {"DATABASE": "postgres://ada:hunter2@db/runs"}},
            "environment.DATABASE",
            "DATABASE",
        ),
        ({"environment": {"HEADER": "Authorization: Bearer hunter2"}}, "environment.HEADER", "HEADER"),
        ({"environment": {"A": "1", "HF_TOKEN": "hunter2"}}, "environment.HF_TOKEN", "HF_TOKEN"),
        ({"environment": {"my-api-key": "hunter2"}}, "environment.my-api-key", "my-api-key"),
        ({"labels": {"team": "rl", "api_key": "hunter2"}}, "labels.api_key", "API_KEY"),
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
