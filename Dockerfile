# midiff as a BIDS App: docker build --tag midiff . && docker run … midiff BIDS_DIR OUT participant
# The weights are inside. A run needs neither a network, nor root, nor a writable file system beside OUT and /tmp.
# docs/how-to/container.md describes the build arguments.

# An image with Python 3.11 or newer and its module venv.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY . /source
RUN --mount=type=cache,target=/root/.cache/pip sh /source/container/install.sh /source "${TORCH_INDEX}"

FROM ${BASE}
LABEL org.opencontainers.image.title="midiff" \
      org.opencontainers.image.description="Zero-shot segmentation of brain volumes, as a BIDS App. Research only." \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-3.0"
COPY --from=build /opt/midiff /opt/midiff
ENV PATH=/opt/midiff/bin:$PATH HOME=/tmp USER=midiff LANG=C.UTF-8 PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["midiff", "bids"]
CMD ["--help"]
