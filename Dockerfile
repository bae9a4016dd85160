# The pipeline's environment; the project itself is mounted at /project.
#   docker build --tag lekhani:cpu .                  torch and ONNX Runtime for the CPU
#   docker build --tag lekhani:gpu --target gpu .     with CUDA; docker run --gpus all
#   docker run --rm --volume "$PWD":/project lekhani:cpu dvc repro
FROM python:3.11.15-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba AS python

# ONNX Runtime for browsers, which `lekhani studio build` puts beside the page. No package runs a script of its own.
FROM node:24-bookworm-slim@sha256:6f7b03f7c2c8e2e784dcf9295400527b9b1270fd37b7e9a7285cf83b6951452d AS studio
WORKDIR /build
COPY studio/package.json studio/package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund && mv node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs \
    node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm /srv/

# pip and uv stay in these stages: the images get nothing from here but /opt/venv.
FROM python AS build
WORKDIR /build
RUN pip install --no-cache-dir uv==0.13.8 && uv venv /opt/venv
ENV VIRTUAL_ENV=/opt/venv UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_CONSTRAINT=constraints.txt
COPY pyproject.toml constraints.txt ./

FROM build AS build-gpu
RUN uv pip install --requirements pyproject.toml --extra gpu --extra all --extra s3 --extra server
COPY README.md LICENSE ./
COPY src src
COPY --from=studio /srv/ src/lekhani/serve/page_files/ort/
RUN uv pip install --no-deps .

FROM build AS build-cpu
RUN uv pip install --torch-backend cpu --requirements pyproject.toml --extra cpu --extra all --extra s3 --extra server
COPY README.md LICENSE ./
COPY src src
COPY --from=studio /srv/ src/lekhani/serve/page_files/ort/
RUN uv pip install --no-deps .

FROM python AS runtime
# git is what DVC and the runs' tags read revisions with; security fixes come before a pinned version of it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /project \
    && useradd --create-home --uid 1000 lekhani \
    && install --directory --owner=1000 /reports
# A user of another number has neither a name nor a home of its own, and the project may be another user's.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    LOGNAME=lekhani \
    PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 1000
WORKDIR /project
HEALTHCHECK --interval=5m --timeout=20s CMD ["lekhani", "--version"]
CMD ["lekhani", "--help"]

FROM runtime AS gpu
# train.compile: Triton builds its launchers with a C compiler.
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 1000
COPY --from=build-gpu /opt/venv /opt/venv
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
