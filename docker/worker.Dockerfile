# One image for generation and training: only the command differs, and on a GPU the index of the torch wheel.
FROM python:3.11-slim

ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# The CPU wheel by default; PyPI's own torch is the CUDA one. Before pyproject.toml, so that other dependencies leave this layer alone.
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --index-url "$TORCH_INDEX" "torch==$TORCH"

COPY pyproject.toml ./
COPY docker/wheel docker/wheel
RUN touch README.md && pip install ".[worker,train,s3,telemetry]"

# A fresh named volume takes the owner of the folder it is mounted on.
RUN useradd --uid 10001 --create-home ebbtide && install -d -o ebbtide -g ebbtide /checkpoints /data
ENV EBBTIDE_CHECKPOINTS=/checkpoints EBBTIDE_DATA=/data EBBTIDE_DATASETS=/datasets EBBTIDE_METRICS_PORT=9100

COPY models models
COPY workers workers

USER ebbtide
EXPOSE 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "workers.health", "9100"]
CMD ["python", "-m", "workers.generation"]
