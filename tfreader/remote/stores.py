"""Which of obstore's stores has what a URL names, and with what credentials."""

from __future__ import annotations

import os
import socket
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

ATTEMPTS = 5
BACKOFF = 0.5  # seconds; doubled with each attempt, and a random part of that is waited
PATIENCE = 90.0  # seconds after which nothing is tried again
IDLE_TIMEOUT = 10.0  # seconds in which a server must answer, and go on answering
TIMEOUT = 30.0  # seconds of a request, after which the rest of its answer is asked for
PART_TIMEOUT = 120.0  # seconds in which a part of an upload is sent, of a line of some 2 Mbit/s

_KINDS = {
    "s3": ("s3", "s3a"),
    "gs": ("gs", "gcs"),
    "az": ("az", "azure", "abfs", "abfss"),
    "web": ("https", "http"),
}
_KIND_OF = {scheme: kind for kind, schemes in _KINDS.items() for scheme in schemes}
_HINTS = {"hf": "use https://huggingface.co/OWNER/NAME/resolve/main/FILE"}


def connect(url: str, writing: bool = False) -> tuple[ObjectStore, str]:
    """The store of a URL, and what that calls the file.

    Raises MissingExtraError, UnsupportedError, AccessDeniedError where credentials are incomplete.
    """
    scheme, _, rest = url.partition("://")
    kind = _KIND_OF.get(scheme.lower())
    if kind is None:
        known = ", ".join(f"{schemes[0]}://" for schemes in _KINDS.values())
        hint = _HINTS.get(scheme, "download it first")
        raise UnsupportedError(f"{url}: {scheme}:// is not among {known}; {hint}")
    place, _, key = rest.rstrip("/").partition("/")
    base = f"{scheme}://{place}"
    if kind == "web":
        parts = urlsplit(url)
        key = unquote(parts.path).strip("/")
        if parts.query or "//" in key or "%2f" in parts.path.lower():
            base, key = url, ""  # which a store's names cannot spell
    elif "//" in f"/{key}":
        raise UnsupportedError(f"{url}: a name between two slashes is empty")
    try:
        return _store(kind, base, place, writing), key
    except TFReaderError:
        raise
    except ImportError:
        raise MissingExtraError(f"reading {url}", "remote") from None
    except Exception as error:  # of obstore, whose errors have no other base
        why = calls.reason(error)
        raise UnsupportedError(f"{url}: {why}; check what the environment says of it") from None


@lru_cache(64)
def _store(kind: str, base: str, place: str, writing: bool) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    # What is sent counts as idle time until the server answers.
    client: dict[str, Any] = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=IDLE_TIMEOUT),
        "read_timeout": timedelta(seconds=PART_TIMEOUT if writing else IDLE_TIMEOUT),
        "timeout": timedelta(seconds=PART_TIMEOUT if writing else TIMEOUT),
    }
    options: dict[str, Any] = {
        "client_options": client,
        "retry_config": {
            "max_retries": ATTEMPTS - 1,
            "retry_timeout": timedelta(seconds=PATIENCE),
            "backoff": {"init_backoff": timedelta(seconds=BACKOFF)},
        },
    }
    if kind == "web":
        return HTTPStore(base, **options)
    if kind == "az":
        return AzureStore.from_url(base, **options)
    if kind == "gs":
        return GCSStore(place, **_gs(), **options)
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        client["root_certificate"] = Path(bundle).read_bytes()
    return S3Store(place, **_s3(place), **options)


def _s3(bucket: str) -> dict[str, Any]:
    """What obstore does not find by itself: AWS's own files, and the bucket's region."""
    has = os.environ.get
    values = _aws_profile()
    # Not all that speak S3 know how to delete several objects at once.
    config: dict[str, Any] = {"disable_bulk_delete": True}
    endpoint = has("AWS_ENDPOINT_URL_S3") or has("AWS_ENDPOINT_URL") or has("AWS_ENDPOINT")
    if not endpoint and (endpoint := values.get("endpoint_url")):
        config["endpoint"] = endpoint
    if not (has("AWS_REGION") or has("AWS_DEFAULT_REGION")):
        region = values.get("region") or (None if endpoint else _region_of(bucket))
        config |= {"region": region} if region else {}
    if has("FSSPEC_S3_ANON", "").lower() in ("true", "1"):
        config["skip_signature"] = True
    if config.get("skip_signature") or has("AWS_SKIP_SIGNATURE") or has("AWS_ACCESS_KEY_ID"):
        return {"config": config}
    if "aws_access_key_id" in values:
        names = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
        config |= {name: values[name] for name in names & values.keys()}
    elif values.keys() & {"role_arn", "sso_session", "sso_start_url", "credential_process"}:
        try:
            from obstore.auth.boto3 import Boto3CredentialProvider
        except ImportError:
            raise AccessDeniedError(
                f"s3://{bucket}: its profile needs boto3: pip install boto3, or set in the "
                "environment what `aws configure export-credentials --format env` prints"
            ) from None
        return {"credential_provider": Boto3CredentialProvider(), "config": config}
    elif has("AWS_EC2_METADATA_DISABLED", "").lower() == "true" and not (
        has("AWS_WEB_IDENTITY_TOKEN_FILE")
        or any(name.startswith("AWS_CONTAINER_CREDENTIALS") for name in os.environ)
    ):
        raise AccessDeniedError(f"s3://{bucket}: {calls.NO_CREDENTIALS}")
    return {"config": config}


def _aws_profile() -> dict[str, str]:
    """What ~/.aws has of the profile in use. Raises AccessDeniedError where it is not there."""
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    files = {
        "AWS_CONFIG_FILE": "~/.aws/config",
        "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    }
    parser = RawConfigParser()
    parser.read([os.path.expanduser(os.environ.get(var) or file) for var, file in files.items()])
    found = [s for s in ((f"profile {name}", name) if name else ("default",)) if s in parser]
    if name and not found:
        raise AccessDeniedError(f"AWS_PROFILE: there is no profile {name!r} in ~/.aws/config")
    return {key: value for section in found for key, value in parser.items(section)}


def _region_of(bucket: str) -> str | None:
    """The region that S3 names for a bucket, whoever asks."""
    with suppress(OSError, ValueError):
        try:
            request = Request(f"https://{bucket}.s3.amazonaws.com", method="HEAD")
            answer: Any = urlopen(request, timeout=IDLE_TIMEOUT)
        except HTTPError as error:
            answer = error
        with answer:
            region: str | None = answer.headers.get("x-amz-bucket-region")
            return region
    return None


def _gs() -> dict[str, Any]:
    """Nothing where there may be credentials, else that requests are not signed.

    Many released checkpoints lie in public buckets. Without this a machine that is not Google's
    would be asked for its own.
    """
    home = os.environ.get("APPDATA", "") if os.name == "nt" else os.path.expanduser("~/.config")
    default = os.path.join(home, "gcloud", "application_default_credentials.json")
    if not os.path.exists(default) and not any(name.startswith("GOOGLE_") for name in os.environ):
        try:
            socket.getaddrinfo("metadata.google.internal", 80)
        except OSError:
            return {"skip_signature": True}
    return {}


def is_web(url: str) -> bool:
    return _KIND_OF.get(url.partition("://")[0].lower()) == "web"
