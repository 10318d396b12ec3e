# The API: validates, enqueues, reports. No torch, so it is small and starts at once.
FROM python:3.11-slim

ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

COPY pyproject.toml ./
COPY docker/wheel docker/wheel
RUN touch README.md && pip install ".[service,s3,telemetry]"

# A fresh named volume takes the owner of the folder it is mounted on.
RUN useradd --uid 10001 --create-home ebbtide && install -d -o ebbtide -g ebbtide /checkpoints
ENV EBBTIDE_CHECKPOINTS=/checkpoints

COPY models models
COPY workers workers
COPY service service

USER ebbtide
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/livez', timeout=3)"]
CMD ["python", "-m", "service", "--host", "0.0.0.0", "--port", "8000"]
