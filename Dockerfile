# Everything for a CPU, whatever Python the machine has. Without arguments the demo runs and leaves its results in
# /data/runs:
#
#     docker build -t sony-papers .
#     docker run --rm -v "$PWD/runs:/data/runs" sony-papers
#     docker run --rm -v "$PWD:/data" sony-papers x-umx separate --inputs song.mp3 --out-dir stems
FROM python:3.10-slim-bookworm

# museval scores with ffmpeg's programs; all else brings its own libraries.
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg && rm -rf /var/lib/apt/lists/*

COPY . /source
RUN pip install --no-cache-dir "/source[openvino]" && rm -rf /source

# Any user may run it: results go to /data, what is compiled and downloaded to /cache.
RUN mkdir -m 1777 /data /cache
ENV SONY_PAPERS_CACHE=/cache HOME=/cache
WORKDIR /data
CMD ["mixed-precision-dnns", "demo"]
