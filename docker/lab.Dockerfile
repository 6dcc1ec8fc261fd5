# The course in JupyterLab on port 8888. It holds what the course needs but not the course: mount the clone, with its small models, at /lab.
#   docker build -f docker/lab.Dockerfile -t qwen3lab .
#   docker run --rm -it -p 127.0.0.1:8888:8888 -v "$PWD:/lab" qwen3lab
# The user in it has the number 1000; whose files have another owner adds --user "$(id -u)" --env HOME=/tmp.
FROM python:3.11.14-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 lab

WORKDIR /lab
COPY README.md pyproject.toml constraints.txt ./
COPY qwen3lab ./qwen3lab
# For torch without CUDA, name PyTorch's index of CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint constraints.txt torch \
    && pip install --no-cache-dir --constraint constraints.txt --editable '.[test,site]'

USER 1000:1000
EXPOSE 8888
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8888, timeout=4); c.request('GET', '/api'); exit(c.getresponse().status != 200)"]
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "--notebook-dir=notebooks"]
