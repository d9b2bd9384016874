"""Amazon S3 and stores that speak its protocol: ``s3://bucket/key``."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from bridge_core.errors import MissingDependency
from ckptbridge_remote.object_stores import ObjectStore
from ckptbridge_remote.obstore_module import for_reading, for_writing, load_obstore
from ckptbridge_remote.store_errors import Advice

__all__ = ["AmazonS3"]

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
    advice = Advice(
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket set "
        "AWS_SKIP_SIGNATURE=true.",
        "Set AWS_REGION to the region of the bucket.",
    )

    def settings(self) -> Hashable:
        """Return the variables of the environment that stores are made from."""
        return frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))

    def make_store(self, bucket: str, *, writing: bool) -> Any:
        """Return a store with the region, the endpoint and the credentials of the environment."""
        load_obstore()
        from obstore.store import S3Store

        options: dict[str, Any] = {"disable_bulk_delete": True}
        profile = {} if self._finds_credentials() else _profile()
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is None and (endpoint := profile.pop("endpoint", None)):
            options["endpoint"] = endpoint
        if "AWS_REGION" not in os.environ and (region := os.environ.get("AWS_DEFAULT_REGION")):
            options["region"] = region
        if _is_true("AWS_NO_SIGN_REQUEST"):
            options["skip_signature"] = True
        plain = (endpoint or "").lower().startswith("http://")
        client = (for_writing if writing else for_reading)(plain=plain)
        return S3Store(bucket, **profile, config=options, **client)

    def _finds_credentials(self) -> bool:
        anonymous = _is_true("AWS_SKIP_SIGNATURE") or _is_true("AWS_NO_SIGN_REQUEST")
        by_itself = not os.environ.get("AWS_PROFILE") and any(map(os.environ.get, _OWN_WAYS))
        return anonymous or by_itself


def _profile() -> dict[str, Any]:
    """Return what a profile of AWS's configuration gives: ``credential_provider``, and the endpoint.

    Raises:
        MissingDependency: ``AWS_PROFILE`` is set, and boto3 is not installed.
    """
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    name = os.environ.get("AWS_PROFILE")
    if not name and not any(Path(file).expanduser().is_file() for file in files):
        return {}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if not name:
            return {}
        raise MissingDependency(
            f"AWS_PROFILE={name} needs boto3, which is not installed.", hint="Run: pip install boto3."
        ) from None
    session = boto3.Session()
    if session.get_credentials() is None:
        return {}
    endpoint = session.client("s3").meta.endpoint_url
    is_own = not endpoint.endswith(".amazonaws.com")
    return {
        "credential_provider": Boto3CredentialProvider(session),
        **({"endpoint": endpoint} if is_own else {}),
    }


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")
