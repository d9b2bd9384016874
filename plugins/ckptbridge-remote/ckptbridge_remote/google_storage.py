"""Google Cloud Storage: ``gs://bucket/key``."""

from __future__ import annotations

import os
from typing import Any

from bridge_core.errors import UsageError
from ckptbridge_remote.addresses import check_variables, is_address
from ckptbridge_remote.object_stores import ObjectStore
from ckptbridge_remote.obstore_module import for_reading, for_writing, load_obstore
from ckptbridge_remote.store_errors import Advice

__all__ = ["GoogleStorage"]


class GoogleStorage(ObjectStore):
    """Google Cloud Storage, or the emulator at ``STORAGE_EMULATOR_HOST``."""

    name = "gcs"
    schemes: tuple[str, ...] = ("gs",)
    variables = ("GOOGLE_", "STORAGE_EMULATOR_HOST", "CLOUDSDK_")
    advice = Advice(
        "Set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login; for a public "
        "bucket set GOOGLE_SKIP_SIGNATURE=true.",
        endpoints=("STORAGE_EMULATOR_HOST", "GOOGLE_BASE_URL"),
    )

    def make_store(self, bucket: str, *, writing: bool) -> Any:
        """Return a store with the credentials of the environment."""
        store = load_obstore().store.GCSStore
        check_variables(("GOOGLE_BEARER_TOKEN",), addresses=("GOOGLE_BASE_URL",))
        options: dict[str, Any] = {}
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
            address = emulator if "://" in emulator else f"http://{emulator}"
            if not is_address(address):
                raise UsageError(
                    "the variable STORAGE_EMULATOR_HOST of the environment is not an address.",
                    hint="Write host:port or http://host:port.",
                )
            # An emulator checks no token; without one obstore signs no reading, and does not write.
            options = {"base_url": address.rstrip("/"), "bearer_token": "emulator"}
        endpoint = options.get("base_url") or os.environ.get("GOOGLE_BASE_URL") or ""
        client = (for_writing if writing else for_reading)(plain=endpoint.lower().startswith("http://"))
        return store(bucket, config=options, **client)
