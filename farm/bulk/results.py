"""The result files of a bulk: a line for each of its requests, in their order, once all of its jobs have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, cast

from farm.bulk.lines import FileLine, LineReader
from farm.bulk.result_images import NamingLinks, added_bytes
from farm.bulk.store import BulkStore
from farm.dialects import openai_batch, registry
from farm.dialects.links import Links
from farm.dialects.openai_common import ResultFormat
from farm.domain.bulk import Bulk
from farm.domain.error_codes import Code
from farm.domain.errors import NotFound
from farm.domain.job import Job
from farm.jobstore.store import JobStore

#: Lines whose jobs are read at a time.
_SLICE = 200


@dataclass(slots=True)
class ResultFile:
    """A result file that is being written. `bytes` is what it will have when it is downloaded, with images in it."""

    file: BinaryIO
    lines: int = 0
    stored_bytes: int = 0
    bytes: int = 0

    def add(self, line: ResultLine) -> None:
        self.file.write(line.content)
        self.lines += 1
        self.stored_bytes += len(line.content)
        self.bytes += len(line.content) + line.added_bytes


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A line of a result file."""

    content: bytes
    is_error: bool = True
    added_bytes: int = 0


class Results:
    """Writes the result files of bulks."""

    def __init__(
        self,
        jobs: JobStore,
        bulks: BulkStore,
        *,
        links: Callable[[Bulk], Links],
        default_format: ResultFormat,
    ) -> None:
        """`default_format`: what OpenAI's dialect answers to a request that names no format."""
        self._jobs = jobs
        self._bulks = bulks
        self._links = links
        self._default_format = default_format

    def write(
        self, bulk: Bulk, reader: LineReader, output: ResultFile, errors: ResultFile, *, stop: Callable[[], bool]
    ) -> bool:
        """Write both files, a slice of lines at a time. False: `stop`, asked before each slice, said so."""
        lines, links = reader.lines(), self._links(bulk)
        naming = NamingLinks(links.base, file=links.file, content=links.content)
        while chunk := list(islice(lines, _SLICE)):
            if stop():
                return False
            for line in self._results(bulk, chunk, naming):
                (errors if line.is_error else output).add(line)
        return True

    def _results(self, bulk: Bulk, lines: Sequence[FileLine], links: Links) -> Iterator[ResultLine]:
        job_ids = [bulk.job_id(line.number) for line in lines]
        jobs = self._jobs.records(job_ids)
        refused = self._bulks.line_errors(bulk.id, [line.number for line in lines])
        for line, job_id, refusal in zip(lines, job_ids, refused, strict=True):
            if refusal is not None:
                yield ResultLine(refusal.encode())
            else:
                yield self._result(bulk, line, job_id, jobs.get(job_id), links)

    def _result(self, bulk: Bulk, line: FileLine, job_id: str, job: Job | None, links: Links) -> ResultLine:
        assert line.content is not None, "the file was checked"
        custom_id = openai_batch.read_line(line.content, bulk.endpoint).custom_id
        if job and job.result:
            return self._rendered(custom_id, job, links)
        if bulk.ending and (job is None or job.code == Code.CANCELLED):
            return ResultLine(openai_batch.encoded(openai_batch.not_executed(custom_id, job_id, bulk.ending)))
        if job is None:
            gone = NotFound("The job of this request was deleted before the batch ended.")
            return ResultLine(openai_batch.encoded(openai_batch.failed(custom_id, job_id, 404, gone)))
        return ResultLine(openai_batch.encoded(openai_batch.failed_job(custom_id, job)))

    def _rendered(self, custom_id: str, job: Job, links: Links) -> ResultLine:
        dialect = registry.by_name(job.dialect).images
        assert dialect, "it was a call for images"
        assert job.result
        wanted = self._default_format if job.result_format == "both" else cast(ResultFormat, job.result_format)
        body = dialect.answer(job, job.result, wanted, links)
        content = openai_batch.encoded(openai_batch.succeeded(custom_id, job, dialect.SUCCESS, body))
        return ResultLine(content, is_error=False, added_bytes=added_bytes(content, job.result.images))
