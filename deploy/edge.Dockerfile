# An edge box: images in over HTTP or from cameras, a few hundred bytes out to the cloud. No torch, nothing of the cloud.
#
#   docker build -f deploy/edge.Dockerfile -t isthmus-edge .          (from the repository root)
#   docker run -p 127.0.0.1:8081:8081 -v "$PWD/deploy/bundles/rooms:/bundle:ro" isthmus-edge
#
# The base image is pinned by tag. A digest is left out on purpose: none could be checked where this was written; add the
# one that `docker buildx imagetools inspect` shows for what you have tested.
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE isthmus.py ./
COPY shared shared
COPY edge edge
# Editable: code runs from /app, as it does in the tests.
RUN /venv/bin/pip install -c constraints.txt -e '.[mqtt,signing,video]' && /venv/bin/python -m compileall -q /app

FROM python:3.11.13-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    ISTHMUS_BUNDLE=/bundle ISTHMUS_HOST=0.0.0.0 ISTHMUS_CLOUD=cloud:50051
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
USER 10001:10001
EXPOSE 8081
# Ready says that this box can encode; whether the cloud is there is reported to each request.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8081/readyz', timeout=4)"]
ENTRYPOINT ["isthmus"]
CMD ["edge", "serve", "--port", "8081"]
