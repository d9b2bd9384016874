"""Amazon S3 and stores that speak its protocol: ``s3://bucket/key``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_core.errors import MissingDependency
from ckptbridge_remote.addresses import check_variables
from ckptbridge_remote.object_stores import ObjectStore
from ckptbridge_remote.obstore_module import for_reading, for_writing, load_obstore
from ckptbridge_remote.store_errors import Advice

__all__ = ["AmazonS3"]

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables that name an endpoint, the most important first; obstore reads them by itself."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_TEXTS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_OWN_WAYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables from which obstore finds credentials by itself."""


class AmazonS3(ObjectStore):
    """Amazon S3, and what speaks its protocol at ``AWS_ENDPOINT_URL``."""

    name = "s3"
    schemes: tuple[str, ...] = ("s3",)
    variables = ("AWS_",)
    advice = Advice(
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket set "
        "AWS_SKIP_SIGNATURE=true.",
        "Set AWS_REGION to the region of the bucket.",
        _ENDPOINTS,
    )

    def make_store(self, bucket: str, *, writing: bool) -> Any:
        """Return a store with the region, the endpoint and the credentials of the environment."""
        check_variables(_TEXTS, addresses=_ENDPOINTS, names=_REGIONS)
        store = load_obstore().store.S3Store
        profile = _Profile() if self._finds_credentials() else _profile()
        endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None) or profile.endpoint
        options: dict[str, Any] = {"disable_bulk_delete": True}  # the call is missing from some stores
        if profile.endpoint and endpoint == profile.endpoint:
            options["endpoint"] = endpoint
        region = next(filter(None, map(os.environ.get, _REGIONS)), None) or profile.region
        if region:
            options["region"] = region
        if _is_true("AWS_NO_SIGN_REQUEST"):
            options["skip_signature"] = True
        plain = (endpoint or "").lower().startswith("http://")
        client = (for_writing if writing else for_reading)(plain=plain)
        return store(bucket, config=options, credential_provider=profile.credentials, **client)

    def _finds_credentials(self) -> bool:
        anonymous = _is_true("AWS_SKIP_SIGNATURE") or _is_true("AWS_NO_SIGN_REQUEST")
        by_itself = not os.environ.get("AWS_PROFILE") and any(map(os.environ.get, _OWN_WAYS))
        return anonymous or by_itself


@dataclass(frozen=True)
class _Profile:
    """What a profile of AWS's configuration gives."""

    credentials: Any = None
    endpoint: str | None = None
    region: str | None = None


def _profile() -> _Profile:
    """Return what the profile of the environment gives, or the default one, by way of boto3.

    Raises:
        MissingDependency: ``AWS_PROFILE`` is set, and boto3 is not installed.
    """
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    name = os.environ.get("AWS_PROFILE")
    if not name and not any(Path(file).expanduser().is_file() for file in files):
        return _Profile()
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if not name:
            return _Profile()
        raise MissingDependency(
            f"AWS_PROFILE={name} needs boto3, which is not installed.", hint="Run: pip install boto3."
        ) from None
    session = boto3.Session()
    has_credentials = session.get_credentials() is not None
    endpoint: str = session.client("s3", region_name=session.region_name or "us-east-1").meta.endpoint_url
    return _Profile(
        Boto3CredentialProvider(session) if has_credentials else None,
        None if endpoint.endswith((".amazonaws.com", ".amazonaws.com.cn")) else endpoint,
        session.region_name,
    )


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")
