# The API, and the webhook worker: no torch. Build from the repository's root:
#   docker build -f deploy/docker/api.Dockerfile -t srpo-farm-api .
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY farm farm
COPY api api
COPY workers workers
RUN python -m venv /opt/farm && /opt/farm/bin/pip install --no-cache-dir '.[otel]'

FROM ${PYTHON}
COPY --from=build /opt/farm /opt/farm
ENV PATH=/opt/farm/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
# A user who owns no files and has no privileges; the root file system may be read-only, with /tmp in memory.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["farm"]
CMD ["api", "--host", "0.0.0.0", "--port", "8000", "--data-dir", "/tmp/farm"]
