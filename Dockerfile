# picjax in an image; the commands are its arguments:
#   docker build -t picjax .                                  # CPU
#   docker build -t picjax --build-arg PLATFORM=cuda12 .      # NVIDIA GPUs; or cuda13
#   docker build -t picjax --build-arg PLATFORM=tpu .         # Cloud TPUs
#   docker run --rm --user $(id -u) -v $PWD:/work picjax train --config=picmm:scenes
FROM python:3.12-slim AS build
ARG PLATFORM=cpu
ARG EXTRAS=export,plot
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs configs
COPY picjax picjax
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir ".[${EXTRAS}]" "jax[${PLATFORM}]"

FROM python:3.12-slim
COPY --from=build /venv /venv
# Any user may run it; compiled programs are kept where a volume can be mounted.
RUN mkdir -m 777 /work /cache
ENV PATH=/venv/bin:$PATH PICJAX_CACHE=/cache HOME=/tmp
WORKDIR /work
ENTRYPOINT ["picjax"]
CMD ["--help"]
