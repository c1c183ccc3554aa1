# fastface-tuner for machines with an NVIDIA GPU. The wheels of torch bring CUDA; the machine needs NVIDIA's driver and
# container toolkit. Sweeps, MLflow's store and decoded data are kept in the folder that is mounted as /workspace:
#
#   docker build --build-arg UID=$(id -u) --tag fastface-tuner .
#   docker run --rm --init --gpus all --shm-size 8g --stop-timeout 30 \
#     --volume "$PWD:/workspace" --volume /data/faces:/faces:ro fastface-tuner sweep fastface --data /faces --name first
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY search_spaces search_spaces
COPY tuner tuner
RUN python -m venv /opt/tuner && /opt/tuner/bin/pip install --no-cache-dir .

FROM python:3.13-slim
# A compiler for `compute.compile` of a run: torch.compile writes C++.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG UID=1000
RUN useradd --non-unique --no-log-init --uid "$UID" --create-home tuner \
    && install --directory --owner tuner /workspace
COPY --from=build /opt/tuner /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH \
    FASTFACE_TUNER_CACHE=/workspace/.cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER $UID
WORKDIR /workspace
VOLUME /workspace
ENTRYPOINT ["fastface-tuner"]
CMD ["--help"]
