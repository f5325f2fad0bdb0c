"""Settings are read once, and say at the start what is wrong with them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from chatapp import cli
from chatapp.errors import SettingsError
from chatapp.settings import ROOT, Settings


def load(tmp_path: Path, dotenv: str | None = None, **environ: str) -> Settings:
    file = tmp_path / ".env"
    if dotenv is not None:
        file.write_text(dotenv)
    return Settings.load({"CHATAPP_DATA_DIR": str(tmp_path / "data"), **environ}, file)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHATAPP_WORKERS", "0"),
        ("CHATAPP_WORKERS", "many"),
        ("CHATAPP_WORKERS", "1.5"),
        ("CHATAPP_BIND", "8000"),
        ("CHATAPP_BIND", "localhost:http"),
        ("CHATAPP_BIND", "localhost:70000"),
        ("CHATAPP_AUTH", "no"),
        ("CHATAPP_REGISTRATION", "everybody"),
        ("CHATAPP_HEARTBEAT_SECONDS", "-1"),
        ("CHATAPP_HEARTBEAT_SECONDS", "nan"),
        ("CHATAPP_MAX_MESSAGE_CHARS", "0"),
        ("OPENAI_BASE_URL", "ftp://models.example"),
        ("OLLAMA_HOST", "http://ollama.example:port"),
        ("VLLM_QWEN_7B_URL", "http://"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable}=.* is wrong: it takes .+"):
        load(tmp_path, **{variable: value})


def test_a_wrong_value_of_a_secret_is_not_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, OPENAI_API_KEY="sk-canary", CHATAPP_SECRET_KEY="canary", CHATAPP_LOCAL_MODEL_KEY="canary")
    assert "canary" not in repr(settings)


def test_an_empty_value_is_the_default(tmp_path: Path) -> None:
    assert load(tmp_path, CHATAPP_WORKERS="").workers == Settings().workers


def test_the_env_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    dotenv = 'CHATAPP_WORKERS=3\n# a comment\nCHATAPP_SYSTEM_PROMPT="Be kind."\n'
    settings = load(tmp_path, dotenv, CHATAPP_WORKERS="2")
    assert (settings.workers, settings.system_prompt) == (2, "Be kind.")


def test_the_first_of_two_names_wins(tmp_path: Path) -> None:
    urls = {"VLLM_QWEN_7B_URL": "http://second:1/v1", "VLLM_BASE_URL": "http://first:1/v1/"}
    assert load(tmp_path, **urls).vllm_base_url == "http://first:1/v1"


def test_the_secret_is_made_once_and_kept_for_its_owner(tmp_path: Path) -> None:
    first, second = load(tmp_path), load(tmp_path)
    file = tmp_path / "data" / "secret_key"
    assert first.secret_key == second.secret_key == file.read_text()
    assert len(first.secret_key) == 64
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_given_secret_is_not_written_down(tmp_path: Path) -> None:
    load(tmp_path, CHATAPP_SECRET_KEY="given")
    assert not (tmp_path / "data" / "secret_key").exists()


@pytest.mark.parametrize("bind", ["0.0.0.0:8000", "192.168.1.5:8000", "[::]:8000", "chat.example:80"])
def test_nobody_else_may_reach_a_site_without_sign_in(tmp_path: Path, bind: str) -> None:
    with pytest.raises(SettingsError, match=r"CHATAPP_AUTH=off .* CHATAPP_BIND must be a loopback address"):
        load(tmp_path, CHATAPP_AUTH="off", CHATAPP_BIND=bind)


@pytest.mark.parametrize("bind", ["127.0.0.1:8000", "[::1]:8000", "localhost:8000", "127.1.2.3:0"])
def test_a_site_without_sign_in_listens_on_loopback(tmp_path: Path, bind: str) -> None:
    assert load(tmp_path, CHATAPP_AUTH="off", CHATAPP_BIND=bind).bind == bind


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"^CHATAPP_DATA_DIR: "):
        load(tmp_path, CHATAPP_DATA_DIR=str(tmp_path / "file" / "data"))


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        load(tmp_path).workers = 2  # type: ignore[misc]


def test_the_table_in_the_docs_is_the_class() -> None:
    """`chatapp settings > docs/settings.md` makes it anew."""
    assert (ROOT / "docs" / "settings.md").read_text() == cli.settings_table()
