#!/usr/bin/env bash
# Everything that only a GPU can show, in one command and under eight minutes:
#
#     bash benchmarks/gpu.sh OUT_DIR
#
# Builds vae_fused with the torch and nvcc that are there (no network is used) for the GPU that is there, runs the CUDA
# tests, compute-sanitizer and the GPU benchmarks. Each step has a time limit and a log, and a failing one does not stop
# the others. OUT_DIR gets results.json, summary.md, tests.xml and the logs; the exit status is 1 if any step failed.
#
# Needs python3 with a CUDA build of torch, setuptools, ninja, pip, pytest and hypothesis, and the CUDA toolkit; with
# pytest-xdist the tests share the processor's cores. PYTHON names another interpreter; VAE_FUSED_COMMIT gives the commit
# where the source is a copy without its git history.
set -u -o pipefail

usage() {
    echo "usage: bash benchmarks/gpu.sh OUT_DIR" >&2
    exit 2
}

[[ $# -eq 1 && -n $1 ]] || usage
python=${PYTHON:-python3}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 2
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd) || exit 2
if ! architecture=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>&1); then
    echo "no GPU that torch can use: ${architecture##*$'\n'}" >&2
    exit 2
fi

# Everything runs outside the source tree, so that "import vae_fused" finds the package built here and not its source.
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
export PYTHONPATH=$work/site PYTHONUNBUFFERED=1
steps=$work/steps.tsv
failed=0
deadline=460
rm -f "$out"/{machine,build,tests,sanitizer,benchmarks}.log "$out"/{results.json,summary.md,tests.xml}

record() { # NAME RESULT SECONDS
    printf '%s\t%s\t%s\n' "$@" >>"$steps"
    printf '%-24s %s, %s s\n' "$1" "$2" "$3"
}

seconds_left() { echo $((deadline - SECONDS)); }

run_step() { # NAME LIMIT_SECONDS LOG COMMAND...
    local name=$1 limit=$2 log=$out/$3 start=$SECONDS left code
    shift 3
    left=$(seconds_left)
    if ((left < 10)); then
        record "$name" "not run: the eight minutes were over" 0
        failed=1
        return 1
    fi
    if ((limit > left)); then limit=$left; fi
    printf '\n===== %s: %s\n' "$name" "$*" >>"$log"
    # An interrupt first: pytest still writes what it has.
    timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$log" 2>&1
    code=$?
    case $code in
        0) record "$name" ok $((SECONDS - start)) ;;
        124 | 137) record "$name" "FAILED: stopped after its limit of $limit s" $((SECONDS - start)) ;;
        *) record "$name" "FAILED: exit status $code" $((SECONDS - start)) ;;
    esac
    if ((code != 0)); then failed=1; fi
    return "$code"
}

# shellcheck disable=SC2329  # called by name, in a shell that timeout can stop
machine_facts() {
    nvidia-smi
    "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version || nvcc --version
    git -C "$repository" -c safe.directory='*' log -1 --oneline
    "$python" -m torch.utils.collect_env
}

find_sanitizer() {
    local candidate
    for candidate in "$(command -v compute-sanitizer)" "${CUDA_HOME:-/usr/local/cuda}"/{bin,compute-sanitizer}/compute-sanitizer; do
        if [[ -x $candidate ]]; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

# setuptools before 77 knows no license by its identifier alone, and none can be fetched where there is no network: it
# builds from a copy that says the same in the older form.
for_old_setuptools() {
    mkdir "$work/source"
    tar --create --directory "$repository" --exclude=./.git --exclude=./build --exclude='*.so' \
        --exclude=_build_stamp.json . | tar --extract --directory "$work/source"
    sed -i -e 's/^license = "\(.*\)"$/license = { text = "\1" }/' -e '/^license-files = /d' "$work/source/pyproject.toml"
}

build() {
    local source=$repository
    if "$python" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) >= 77)'; then
        for_old_setuptools || { record build "FAILED: the source could not be copied" 0; failed=1; return 1; }
        source=$work/source
    fi
    run_step build 210 build.log env TORCH_CUDA_ARCH_LIST="$architecture" FORCE_CUDA=1 MAX_JOBS="$(nproc)" \
        "$python" -m pip install -v --no-index --no-build-isolation --no-deps --no-cache-dir \
        --disable-pip-version-check --target "$work/site" "$source" || return 1
    run_step import 30 build.log "$python" -c '
import sys, vae_fused
build = vae_fused.build_info()
print(vae_fused.__file__, build)
sys.exit(0 if build["extension"] and build["cuda"] else "the build has no CUDA kernels")'
}

cuda_tests() {
    local workers=()
    # Ten thousand small tests wait for the host, not for the GPU: several processes, each with a context of its own, so
    # that a kernel that faults spoils the tests of one of them alone.
    if "$python" -c 'import xdist' 2>/dev/null; then workers=(-n "$(($(nproc) < 8 ? $(nproc) : 8))"); fi
    # vae_fused is imported first: pytest may put the source tree, which has no kernels, in front of the search path.
    # Compilers and math libraries of every process would else start a thread for every core.
    run_step tests 130 tests.log env OMP_NUM_THREADS=2 TORCHINDUCTOR_COMPILE_THREADS=1 "$python" -c '
import sys, pytest, vae_fused
sys.exit(pytest.main(sys.argv[1:]))' "$repository/tests" -m gpu -q -p no:cacheprovider --junitxml="$out/tests.xml" \
        "${workers[@]}"
}

sanitize() { # TOOL OPTIONS...
    local tool=$1 ours=() options
    shift
    options=$("$sanitizer" --help 2>&1)
    # Only our kernels are slowed down where the tool can be told so. initcheck has to see who writes what they read.
    if [[ $tool != initcheck && $options == *--kernel-regex* ]]; then
        ours=(--kernel-regex kns=vae_fused)
    fi
    # Without PyTorch's caching allocator every tensor is an allocation of its own, whose bounds memcheck knows.
    run_step "$tool" 60 sanitizer.log env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
        "$sanitizer" --tool "$tool" --error-exitcode 99 "${ours[@]}" "$@" "$python" "$repository/benchmarks/sanitizer_selection.py"
}

benchmarks() {
    local limit=$(($(seconds_left) - 10))
    if ((limit > 150)); then limit=150; fi
    # The script is asked to begin no case in its last seconds, so that the limit cuts none short.
    run_step benchmarks "$limit" benchmarks.log \
        "$python" "$repository/benchmarks/gpu_benchmark.py" "$out" --seconds $((limit > 40 ? limit - 25 : 15))
}

export -f machine_facts
export repository python
run_step machine 20 machine.log bash -c machine_facts || true
if build; then
    cuda_tests
    if sanitizer=$(find_sanitizer); then
        # Errors of API calls are PyTorch's to handle (it probes with calls that may fail); the kernels are looked at here.
        sanitize memcheck --report-api-errors no
    else
        record "compute-sanitizer" "FAILED: not found on PATH or in CUDA_HOME" 0
        failed=1
    fi
    benchmarks
    for tool in racecheck initcheck synccheck; do
        if [[ -z $sanitizer ]]; then
            continue
        elif (($(seconds_left) < 45)); then
            record "$tool" "not run: no time left for this additional check" 0
        else
            sanitize "$tool"
        fi
    done
else
    record "tests to benchmarks" "not run: they need the build" 0
fi
if ! "$python" "$repository/benchmarks/gpu_report.py" "$out" "$steps" "$SECONDS"; then
    echo "the summary could not be written" >&2
    failed=1
fi
exit "$failed"
