# One image for every service (`trainshed gateway|dispatcher|projector|agent`) and for the command line.
# Both stages stand on the same pinned base: what the first builds in /opt/trainshed runs unchanged in the second.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/trainshed && python -m venv /opt/build
COPY requirements/run.txt requirements/build.txt ./
RUN /opt/trainshed/bin/pip install -q --require-hashes --only-binary :all: -r run.txt \
 && /opt/build/bin/pip install -q --require-hashes --only-binary :all: -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY events events
COPY projections projections
COPY services services
# What only installs or tests is left behind, pip included.
RUN /opt/build/bin/pip wheel -q --no-deps --no-build-isolation --no-index -w dist ./client . \
 && /opt/trainshed/bin/pip install -q --no-deps --no-index dist/*.whl \
 && /opt/trainshed/bin/pip uninstall -q -y pip setuptools \
 && find /opt/trainshed -type d \( -name tests -o -name test -o -name testing \) -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 trainshed \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/trainshed --shell /usr/sbin/nologin trainshed \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/trainshed \
 && groupadd --gid 10002 worker \
 && useradd --uid 10002 --gid 10002 --no-log-init --no-create-home --home-dir /home/worker --shell /bin/sh worker \
 && install -d -m 0700 -o 10002 -g 10002 /home/worker && install -d -m 0755 /srv/trainshed \
 && ln -s /opt/trainshed/bin/trainshed /usr/local/bin/trainshed
COPY --from=build /opt/trainshed /opt/trainshed
# PATH stays the base's: a worker's `python3` is the image's own and never Trainshed's.
ENV TRAINSHED_STATE_DIR=/var/lib/trainshed \
    TRAINSHED_HTTP_LISTEN=0.0.0.0:8080 \
    TRAINSHED_LOG_FORMAT=json
USER 10001:10001
# What is submitted in a container without a folder of its own is for one that workers can enter.
WORKDIR /srv/trainshed
EXPOSE 8080
# Health is readiness here: who waits for a service (compose's depends_on) wants it to serve.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["python3", "-I", "-S", "-c", \
    "import socket; s = socket.create_connection(('127.0.0.1', 8080), 2); s.sendall(b'GET /readyz HTTP/1.0\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in s.recv(64))"]
ENTRYPOINT ["/opt/trainshed/bin/trainshed"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trainshed" \
      org.opencontainers.image.description="Queues and runs training jobs on GPU machines, on an append-only event log." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
