"""Which of obstore's stores has what a URL names, and with what credentials."""

from __future__ import annotations

import os
import socket
from configparser import Error as ConfigFileError
from configparser import RawConfigParser
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from ..errors import AccessDeniedError, MissingExtraError, TFReaderError, UnsupportedError
from . import calls

if TYPE_CHECKING:
    from obstore.store import ObjectStore

IDLE_TIMEOUT = 10.0  # seconds in which a server must answer, and go on answering

_KINDS = {
    "s3": ("s3", "s3a"),
    "gs": ("gs", "gcs"),
    "az": ("az", "azure", "abfs", "abfss"),
    "web": ("https", "http"),
}
_KIND_OF = {scheme: kind for kind, schemes in _KINDS.items() for scheme in schemes}
_INSTEAD = {
    "hf": "use https://huggingface.co/OWNER/NAME/resolve/main/FILE",
    "": "download it first",
}


def connect(url: str, writing: bool = False) -> tuple[ObjectStore, str]:
    """The store of a URL, and what that calls the file.

    Raises MissingExtraError, UnsupportedError, AccessDeniedError where credentials are incomplete.
    """
    scheme, _, rest = url.partition("://")
    kind = _KIND_OF.get(scheme.lower())
    if kind is None:
        known = ", ".join(f"{schemes[0]}://" for schemes in _KINDS.values())
        instead = _INSTEAD.get(scheme, _INSTEAD[""])
        raise UnsupportedError(f"{url}: {scheme}:// is not among {known}; {instead}")
    place, _, key = rest.partition("/")
    base = f"{scheme}://{place}"
    key = key.rstrip("/")
    if "//" in f"/{key}" and kind != "web":
        raise UnsupportedError(f"{url}: a name between two slashes is empty")
    if kind == "web":
        parts = urlsplit(url)
        key = unquote(parts.path).strip("/")
        if parts.query or "//" in key or "%2f" in parts.path.lower():
            base, key = url, ""  # which a store's names cannot spell
    try:
        return _store(kind, base, place, writing), key
    except ImportError:
        raise MissingExtraError(f"reading {url}", "remote") from None
    except Exception as error:  # of obstore, whose errors have no other base
        if isinstance(error, TFReaderError):
            raise
        why = calls.reason(error)
        raise UnsupportedError(f"{url}: {why}; check what the environment says of it") from None


@lru_cache(64)
def _store(kind: str, base: str, place: str, writing: bool) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    # `calls.persist` tries again, but for an upload: one part that fails must not fail them all.
    # What is sent counts as idle time until the server answers.
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=IDLE_TIMEOUT),
            "read_timeout": timedelta(seconds=calls.BLOCK_TIMEOUT if writing else IDLE_TIMEOUT),
            "timeout": timedelta(seconds=calls.BLOCK_TIMEOUT),
        },
        "retry_config": {
            "max_retries": calls.ATTEMPTS - 1 if writing else 0,
            "retry_timeout": timedelta(seconds=calls.PATIENCE),
            "backoff": {
                "init_backoff": timedelta(seconds=calls.BACKOFF),
                "max_backoff": timedelta(seconds=calls.LONGEST_BACKOFF),
            },
        },
    }
    if kind == "s3" and (bundle := os.environ.get("AWS_CA_BUNDLE")):
        options["client_options"]["root_certificate"] = Path(bundle).read_bytes()
    if kind == "web":
        return HTTPStore(base, **options)
    if kind == "s3":
        return S3Store(place, **_s3(place), **options)
    if kind == "gs":
        return GCSStore(place, **_gs(), **options)
    return AzureStore.from_url(base, **options)


def _s3(bucket: str) -> dict[str, Any]:
    """What obstore does not find by itself: AWS's own files, and the bucket's region."""
    has = os.environ.get
    values = _aws_profile()
    # Not all that speak S3 know how to delete several objects at once.
    config: dict[str, Any] = {"disable_bulk_delete": True}
    endpoint = has("AWS_ENDPOINT_URL_S3") or has("AWS_ENDPOINT_URL") or has("AWS_ENDPOINT")
    if not endpoint and values.get("endpoint_url"):
        endpoint = config["endpoint"] = values["endpoint_url"]
    if not (has("AWS_REGION") or has("AWS_DEFAULT_REGION")):
        region = values.get("region") or (None if endpoint else _region_of(bucket))
        config |= {"region": region} if region else {}
    if has("FSSPEC_S3_ANON", "").lower() in ("true", "1"):
        config["skip_signature"] = True
    if config.get("skip_signature") or has("AWS_SKIP_SIGNATURE") or has("AWS_ACCESS_KEY_ID"):
        return {"config": config}
    if values.get("aws_access_key_id"):
        names = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
        config |= {name: values[name] for name in names & values.keys()}
    elif values.keys() & {"role_arn", "sso_session", "sso_start_url", "credential_process"}:
        return {"credential_provider": _by_boto3(bucket), "config": config}
    elif has("AWS_EC2_METADATA_DISABLED", "").lower() == "true" and not (
        has("AWS_WEB_IDENTITY_TOKEN_FILE")
        or any("AWS_CONTAINER_CREDENTIALS" in n for n in os.environ)
    ):
        raise AccessDeniedError(
            f"s3://{bucket}: there are no credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket"
        )
    return {"config": config}


def _aws_profile() -> dict[str, str]:
    """What ~/.aws has of the profile in use. Raises AccessDeniedError where it is not there."""
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    values: dict[str, str] = {}
    found = False
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "config", f"profile {name}" if name else "default"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name or "default"),
    ):
        parser = RawConfigParser()
        with suppress(OSError, ConfigFileError, UnicodeDecodeError):
            parser.read(Path(os.environ.get(variable) or f"~/.aws/{file}").expanduser(), "utf-8")
        if parser.has_section(section):
            found = True
            values |= parser[section]
    if name and not found:
        raise AccessDeniedError(f"AWS_PROFILE: there is no profile {name!r} in ~/.aws/config")
    return values


def _by_boto3(bucket: str) -> Any:
    """Credentials of a profile that names a role, a sign-on or a program."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise AccessDeniedError(
            f"s3://{bucket}: its profile needs boto3: pip install boto3, or set in the environment "
            "what `aws configure export-credentials --format env` prints"
        ) from None
    return Boto3CredentialProvider()


def _region_of(bucket: str) -> str | None:
    """The region that S3 names for a bucket, whoever asks."""
    request = Request(f"https://{bucket}.s3.amazonaws.com", method="HEAD")
    try:
        with urlopen(request, timeout=IDLE_TIMEOUT) as answer:
            region: str | None = answer.headers.get("x-amz-bucket-region")
    except HTTPError as error:
        region = error.headers.get("x-amz-bucket-region")
    except (OSError, ValueError):
        region = None
    return region


def _gs() -> dict[str, Any]:
    """Nothing where there may be credentials, else that requests are not signed.

    Many released checkpoints lie in public buckets. Without this a machine that is not Google's
    would be asked for its own.
    """
    default = Path("~/.config/gcloud/application_default_credentials.json").expanduser()
    if default.exists() or any(name.startswith("GOOGLE_") for name in os.environ):
        return {}
    try:
        socket.getaddrinfo("metadata.google.internal", 80)
    except OSError:
        return {"skip_signature": True}
    return {}
