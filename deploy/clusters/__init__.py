"""Clusters: one section of search.yaml describes any; `cluster_client` gives a Dask client of it, Ray can run beside it."""

from .batch import describe, job_script
from .ray_nodes import ray_address, ray_on_dask
from .sections import AnyCluster, ClusterSection, cluster_section, section_for
from .shipping import require_shared, send_models
from .start import cluster_client, connect, dashboard_link

__all__ = [
    "AnyCluster",
    "ClusterSection",
    "cluster_client",
    "cluster_section",
    "connect",
    "dashboard_link",
    "describe",
    "job_script",
    "ray_address",
    "ray_on_dask",
    "require_shared",
    "section_for",
    "send_models",
]
