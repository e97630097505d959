# Training on a GPU, or with TORCH_INDEX=https://download.pytorch.org/whl/cpu on a CPU:
#
#   docker build -f deploy/train.Dockerfile -t dynconv-train .
#   docker run --rm --gpus all --shm-size 1g -v "$PWD/runs:/dynconv/runs" -v "$PWD/data:/dynconv/data:ro" \
#       --user "$(id -u):$(id -g)" dynconv-train quick --data data
#
# BASE is any Debian with Python 3.11 or newer. Release builds name it by digest.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
LABEL org.opencontainers.image.title="dynconv train" \
      org.opencontainers.image.licenses="MIT"
# g++ compiles the operators for the processor at hand, at first use. A base's own version is the one to take.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# PyPI's torch, which brings CUDA.
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
RUN python3 -m venv /opt/dynconv
COPY constraints.txt pyproject.toml hatch_build.py README.md LICENSE ./
RUN torch="$(sed -n 's/^torch==//p' constraints.txt)" \
    && /opt/dynconv/bin/pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" "torch==${torch}"
COPY src src
RUN /opt/dynconv/bin/pip install --no-cache-dir -c constraints.txt .
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dynconv \
    && install -d -o 10001 -g 10001 /dynconv /dynconv/runs
WORKDIR /dynconv
# Any user may run it: the cache of compiled operators belongs to whoever that is.
ENV PATH=/opt/dynconv/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache
USER 10001:10001
ENTRYPOINT ["dynconv", "train"]
CMD ["quick", "--data", "auto"]
