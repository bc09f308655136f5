"""What comes in: data sets, images, and the order in which they are seen."""

from clipkit.data.audit import Audit, audit
from clipkit.data.dataset import Dataset
from clipkit.data.decode import decode_image
from clipkit.data.load import load_data, load_splits
from clipkit.data.manifest import Manifest, list_manifests, read_manifest
from clipkit.data.rejects import Rejects

__all__ = [
    "Audit",
    "Dataset",
    "Manifest",
    "Rejects",
    "audit",
    "decode_image",
    "list_manifests",
    "load_data",
    "load_splits",
    "read_manifest",
]
