#!/usr/bin/env bash
# Puts together, without a CUDA toolkit, what building candle with its feature `cuda` needs of one: NVIDIA's wheels on PyPI, 1.2 GB.
#     eval "$(crates/sdpa-candle/cuda-home.sh FOLDER)"
# Prints the variables to build with. Tried on x86-64 Linux with CUDA 13.0, the one that kernels/requirements.txt pins.
set -euo pipefail

folder=${1:?usage: cuda-home.sh FOLDER}
mkdir -p "$folder"
python3 -m pip install --quiet --no-deps --upgrade --target "$folder" --requirement "$(dirname "$0")/../../kernels/requirements.txt" \
    nvidia-nvvm==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35 >&2
home=$(cd "$folder/nvidia/cu13" && pwd)

# Wheels have libcublas.so.13 alone; a linker looks for libcublas.so.
for library in cublas cublasLt cudart curand nvrtc; do
    found=("$home/lib/lib$library.so."*)
    ln -sf "$(basename "${found[0]}")" "$home/lib/lib$library.so"
done
ln -sfn lib "$home/lib64"

# libcuda comes with the driver. To link, its functions' names suffice, which its header has; where the program runs, the driver's is taken.
mkdir -p "$home/lib/stubs"
grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$home/include/cuda.h" | sort -u | sed 's/.*/void &(void) {}/' |
    "${CC:-cc}" -shared -fPIC -w -Wl,-soname,libcuda.so.1 -x c - -o "$home/lib/stubs/libcuda.so"

printf 'export CUDA_HOME=%q PATH=%q:"$PATH"\n' "$home" "$home/bin"
