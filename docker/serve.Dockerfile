# llama.cpp with qwen3lab.serving.chat_server in front: OpenAI's chat endpoint on port 8080. It holds no weights; mount a folder with model.gguf and tokenizer.json.
#   docker build -f docker/serve.Dockerfile -t qwen3lab-serve .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/company:/models:ro" qwen3lab-serve
FROM python:3.11.14-slim-bookworm

# llama.cpp's threads. Debian keeps one version of it for the life of a release.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /srv
COPY README.md pyproject.toml constraints.txt ./
COPY qwen3lab ./qwen3lab
# Without torch and all that trains: the guard needs a tokenizer, a template engine and llama.cpp.
RUN pip install --no-cache-dir --constraint constraints.txt fastapi gguf httpx jinja2 jsonschema lazy-loader pydantic transformers uvicorn xllamacpp \
    && pip install --no-cache-dir --no-deps .

ENV HF_HUB_OFFLINE=1
USER 1000:1000
EXPOSE 8080
# http.client knows no proxies, which could not reach this address.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "qwen3lab.serving.chat_server"]
CMD ["/models/model.gguf", "/models", "--host", "0.0.0.0", "--port", "8080"]
