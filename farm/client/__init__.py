"""Python client of a farm: `Client("http://127.0.0.1:8000").render("a red star")` returns Pillow images."""

from farm.client.asynchronous import AsyncClient, AsyncJob
from farm.client.client import Client, Job, JobFailed, JobState, Parameters
from farm.client.http import CallFailed

__all__ = ["AsyncClient", "AsyncJob", "CallFailed", "Client", "Job", "JobFailed", "JobState", "Parameters"]
