"""packhorse: one Python worker for every Redis job queue. The public names, nothing else."""

from packhorse.app import App, JobFunction
from packhorse.client import BlockingCall, Client, PartlyEnqueued
from packhorse.engine.pool import WorkerPool
from packhorse.errors import (
    ArgumentsError,
    ConfigError,
    DecodeError,
    EncodeError,
    EnqueueUnknown,
    GiveUp,
    JobTimeout,
    PackhorseError,
    ReplyLost,
    RetryLater,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    StoreUnfit,
    UnknownJob,
    WorkerLost,
)
from packhorse.job import Job
from packhorse.protocols.base import NewJob, Receipt
from packhorse.settings import WorkerSettings

__version__ = "0.1.0"

__all__ = [
    "App",
    "ArgumentsError",
    "BlockingCall",
    "Client",
    "ConfigError",
    "DecodeError",
    "EncodeError",
    "EnqueueUnknown",
    "GiveUp",
    "Job",
    "JobFunction",
    "JobTimeout",
    "NewJob",
    "PackhorseError",
    "PartlyEnqueued",
    "Receipt",
    "ReplyLost",
    "RetryLater",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnfit",
    "UnknownJob",
    "WorkerLost",
    "WorkerPool",
    "WorkerSettings",
    "__version__",
]
