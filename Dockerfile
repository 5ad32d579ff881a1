# Two images from one file; no weights are in them but the demo judges:
#   docker build --target cpu -t gram-serve:cpu .
#   docker build --target gpu -t gram-serve:gpu .
# Dependencies come before the code, so that a change of code rebuilds only the last layers.
# The container listens on all addresses, which the service refuses without keys (docs/configuration.md, auth):
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/service.toml:/etc/gram.toml:ro" -e GRAM_CONFIG=/etc/gram.toml gram-serve:cpu
# It runs with a read-only root, as deploy/kubernetes does: only /state, /tmp and the home directory are written to.
# `make verify-image` runs these steps without a container engine; docs/deployment.md says what that does not show.

# Python 3.11 is what the test suite runs on.
FROM python:3.11-slim-bookworm AS base
LABEL org.opencontainers.image.title="gram-serve" \
      org.opencontainers.image.description="Generative reward models as a reward-scoring service for RLHF" \
      org.opencontainers.image.licenses="Apache-2.0"
# tini is process 1: it passes signals to the service alone (which then drains its engine processes) and reaps orphans.
# A pinned Debian package cannot be built again once the archive has the next security fix, so these two are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnuma1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --home-dir /var/lib/gram --uid 10001 --user-group gram \
 && install -d -o gram -g gram /state
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1 \
    GRAM_SERVER__HOST=0.0.0.0 GRAM_SERVER__PORT=8000 XDG_STATE_HOME=/state
WORKDIR /app
EXPOSE 8000
VOLUME /state
ENTRYPOINT ["tini", "--", "python", "-m", "service", "serve"]
# The port opens when the model is loaded, so the start period is the longest load that is not a failure.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['GRAM_SERVER__PORT'] + '/livez', timeout=4)"]

FROM base AS cpu
COPY requirements/cpu.txt requirements/
RUN pip install --no-deps --extra-index-url https://download.pytorch.org/whl/cpu "$(sed -n '/^torch==/p' requirements/cpu.txt)" \
 && pip install --no-deps -r requirements/cpu.txt
ENV GRAM_ENGINE__TYPE=vllm GRAM_ENGINE__DEVICE=cpu
COPY service/ service/
RUN python -m compileall -q service
# By number, so that a cluster can tell that it is not root (runAsNonRoot).
USER 10001:10001

FROM base AS gpu
# Triton compiles small launchers at run time; the CUDA libraries themselves come as wheels.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/gpu.txt requirements/gpu-lock.txt requirements/floor.txt requirements/
RUN pip install -r requirements/gpu.txt -c requirements/gpu-lock.txt -c requirements/floor.txt
ENV GRAM_ENGINE__TYPE=vllm GRAM_ENGINE__DEVICE=cuda
COPY service/ service/
RUN python -m compileall -q service
USER 10001:10001
