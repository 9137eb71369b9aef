# A cloud server on a CPU: gRPC on 50051, HTTP on 8080.
#
#   docker build -f deploy/cloud.Dockerfile -t isthmus-cloud .        (from the repository root)
#   docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:50051:50051 -v "$PWD/deploy/bundles/rooms:/bundle:ro" isthmus-cloud
#
# It listens on every address of the container, so it asks for a token: it makes one at each start and prints it in its
# log, unless it is given one (-e ISTHMUS_AUTH_TOKEN=..., or --token-file on a volume). docs/access.md has more.
#
# The base image is pinned by tag. A digest is left out on purpose: none could be checked where this was written; add the
# one that `docker buildx imagetools inspect` shows for what you have tested.
FROM python:3.11.13-slim-bookworm AS build
# The default builds of torch bring CUDA. For a fifth of the size name PyTorch's own index of CPU builds here (its "Get
# started" page has the address); the version is the same, so constraints.txt holds for both.
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE isthmus.py ./
COPY shared shared
COPY cloud cloud
# Editable: code runs from /app, as it does in the tests.
RUN /venv/bin/pip install -c constraints.txt -e '.[cloud,postgres]' \
    && /venv/bin/python -m compileall -q /app

FROM python:3.11.13-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    ISTHMUS_BUNDLE=/bundle ISTHMUS_HOST=0.0.0.0
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
USER 10001:10001
EXPOSE 8080 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["isthmus"]
CMD ["cloud", "serve", "--grpc-port", "50051", "--http-port", "8080"]
