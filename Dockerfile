# syntax=docker/dockerfile:1
# The command `confp` with what a service needs, as an ordinary user:
#   docker build -t confp .
#   docker run --read-only --tmpfs /tmp -v confp:/data -v ~/Music:/music:ro -p 8000:8000 confp
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/confp
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY confp_jax confp_jax
RUN /opt/confp/bin/pip install --no-cache-dir --constraint requirements.lock ".[serve,watch,radio,mqtt]"

FROM ${BASE}
# The version of FFmpeg is the one that the base's distribution keeps safe.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin confp
COPY --from=build /opt/confp /opt/confp
ENV PATH=/opt/confp/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/data/cache \
    XDG_STATE_HOME=/data/state
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["confp"]
CMD ["serve", "/data/music.db", "--host", "0.0.0.0", "--share-audio", "/music"]
