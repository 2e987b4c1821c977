# docker build -t cutrec .
# docker run --gpus all -v /my/logs:/data cutrec uv run dvc exp run -S dataset=/data/events.parquet
# docker run --gpus all -v "$PWD":/cutrec --user "$(id -u)" cutrec uv run dvc repro   (in your own checkout)
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04

# Triton compiles its launchers with the system's C compiler; DVC needs git.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends build-essential git python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9

# `uv run` finds the environment made here and never changes it.
ENV PATH=/opt/venv/bin:/opt/uv/bin:$PATH \
    UV_LINK_MODE=copy \
    UV_NO_SYNC=1 \
    UV_PROJECT_ENVIRONMENT=/opt/venv \
    UV_PYTHON_INSTALL_DIR=/opt/python \
    VIRTUAL_ENV=/opt/venv

# Dependencies before the code: a change of code does not install them again.
COPY requirements.lock /opt/requirements.lock
RUN uv venv --python 3.11 /opt/venv \
    && uv pip install --no-cache --require-hashes --requirement /opt/requirements.lock

# A mounted checkout may belong to anyone: git must trust the directory, and `--user` must find a name and a home.
# Experiments are commits and need a name.
ARG UID=1000
ENV HOME=/home/cutrec USER=cutrec LOGNAME=cutrec
RUN (userdel --remove ubuntu 2>/dev/null || true) \
    && useradd --create-home --uid ${UID} cutrec \
    && chmod 1777 /home/cutrec \
    && mkdir /cutrec && chown cutrec:cutrec /cutrec \
    && git config --system --add safe.directory '*' \
    && git config --system user.name cutrec \
    && git config --system user.email cutrec@localhost

COPY --chown=cutrec:cutrec . /cutrec
WORKDIR /cutrec
RUN uv pip install --no-cache --no-deps \
    --editable packages/cce-kernels --editable packages/rec-data --editable packages/rec-models --editable packages/rec-eval \
    --editable packages/cutrec

USER ${UID}
CMD ["uv", "run", "dvc", "repro"]
