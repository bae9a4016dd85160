# The pipeline's environment. Build: docker build -t lekhani .   Run: docker run --rm -v "$PWD":/project lekhani dvc repro
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /opt/lekhani
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir uv==0.13.8
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN /opt/venv/bin/uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python -c constraints.txt .

FROM python:3.11.13-slim-bookworm
# git is what DVC and the runs' tags read revisions with
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 lekhani
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
USER lekhani
WORKDIR /project
HEALTHCHECK --interval=5m --timeout=20s CMD ["lekhani", "--version"]
CMD ["lekhani", "--help"]
