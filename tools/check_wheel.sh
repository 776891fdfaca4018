#!/bin/sh
# Build the wheel, install it into a bare environment, and run a command of each paper far from the checkout, without a
# home that can be written to.
#
#     sh tools/check_wheel.sh PYTHON [EXTRA]
set -e
python=$1 extra=${2:+[$2]}
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# From a copy, so that nothing that git ignores can slip in, and nothing of the checkout can be found from there.
(cd "$checkout" && git ls-files -z | xargs -0 tar -cf - ) | (mkdir "$work/source" && tar -xf - -C "$work/source")
"$python" -m venv "$work/venv"
pip="$work/venv/bin/python -m pip --disable-pip-version-check"
$pip wheel -qq --no-deps --wheel-dir "$work/dist" "$work/source"
rm -rf "$work/source"
wheel=$(echo "$work"/dist/*.whl)
$pip install -qq "$wheel$extra"

mkdir "$work/empty"
cd "$work/empty"
export PATH="$work/venv/bin:$PATH" HOME=/nonexistent SONY_PAPERS_CACHE="$work/cache"
unset PYTHONPATH

run() {
    echo "\$ $*"
    "$@" > "$work/log" 2>&1 || { status=$?; tail -20 "$work/log"; echo "failed with status $status: $*"; exit 1; }
    tail -1 "$work/log"
}

for package in common mixed_precision_dnns x_umx out_of_core_training data_cleansing d3net; do
    python -c "import $package, sys; sys.exit(not $package.__file__.startswith(sys.prefix))" ||
        { echo "$package does not come from the wheel"; exit 1; }
done
run mixed-precision-dnns report --published resnet18
run mixed-precision-dnns train_resnet DEFAULT --dataset digits --batch-size 8 --epochs 1 --steps-per-epoch 2
run x-umx train SYNTHETIC --epochs 1 --samples-per-track 1 --batch-size 2
run out-of-core-training train SMALL
run data-cleansing cleanse --dataset digits --side 8 --width 0.1 -e 1 -nt 1 -r 0 5 --methods final
run d3net train segmentation SYNTHETIC --max-iter 2 --epoch-length 2 --output scenes
run python -c "import numpy, soundfile; soundfile.write('song.wav', numpy.random.default_rng(0).normal(0, 0.1, (44100, 2)), 44100)"
run x-umx separate song.wav --model xumx-small
run d3net separate song.wav --model d3net-small
run python -m x_umx.train --help
echo "the wheel works: $(basename "$wheel")"
