# The render worker. Build from the repository's root:
#   docker build -f deploy/docker/worker.Dockerfile -t srpo-farm-worker .
# On a machine without a card: --build-arg BASE=debian:bookworm-slim
# torch brings its own CUDA libraries; of the base image it needs what connects a container to the driver.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The base image's distribution decides the version of Python.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY farm farm
COPY api api
COPY workers workers
RUN python3 -m venv /opt/farm && /opt/farm/bin/pip install --no-cache-dir '.[nvidia,otel,worker]'

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
  && install -d -o 10001 -g 10001 /cache
COPY --from=build /opt/farm /opt/farm
# /cache keeps compiled kernels across restarts, if a volume is mounted there.
ENV PATH=/opt/farm/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp XDG_CACHE_HOME=/cache FARM_METRICS_PORT=9100
USER 10001:10001
WORKDIR /tmp
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=600s \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9100/metrics', timeout=4)"]
ENTRYPOINT ["farm"]
CMD ["worker", "--data-dir", "/tmp/farm"]
