# The server on a CPU: docker build -f deploy/serve.Dockerfile -t dynconv-serve .
#
# BASE is any Debian with Python 3.11 or newer. Release builds name it by digest.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Without GPU libraries; PyPI's torch brings several gigabytes of them.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
# It compiles the operators for all processors, so the image itself needs no compiler. A base's own version is the one to take.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/dynconv
COPY constraints.txt pyproject.toml hatch_build.py README.md LICENSE ./
RUN torch="$(sed -n 's/^torch==//p' constraints.txt)" \
    && /opt/dynconv/bin/pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" "torch==${torch}"
COPY src src
RUN DYNCONV_PREBUILD=1 /opt/dynconv/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM ${BASE}
LABEL org.opencontainers.image.title="dynconv serve" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dynconv
COPY --from=build /opt/dynconv /opt/dynconv
# The file system may be read-only. What is written goes to /tmp, which should be a tmpfs.
ENV PATH=/opt/dynconv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["dynconv", "serve", "--host", "0.0.0.0", "--log", "json"]
CMD ["accurate"]
