#!/usr/bin/env bash
# Installs what is missing, and nothing else, on Debian 12. A no-op that takes milliseconds when all is there.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/install-dependencies.sh [--list] [build] [test] [check]
  build   what compiles and runs foreshadow (the default)
  test    what `make test` and `make bench` need besides
  check   clang 19: what `make format`, `make lint` and the fuzz preset need
  --list  print what is missing and install nothing
TEXT
}

build=(
  g++ cmake ninja-build make pkg-config ccache git python3
  liburing-dev libexpected-dev libfmt-dev libspdlog-dev libcli11-dev libgrpc++-dev libprotobuf-dev
  protobuf-compiler protobuf-compiler-grpc libsqlite3-dev libmicrohttpd-dev
  libisal-dev liblz4-dev libzstd-dev libgnutls28-dev libnbd-dev libgtest-dev libbenchmark-dev
  # To run: nbdfuse (in libnbd-bin) shows a volume as a file, on which mkfs and mount then work.
  libnbd-bin python3-libnbd fuse3 e2fsprogs util-linux mount
)
test=(fio qemu-utils nbdkit gnutls-bin)
check=(clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev)

list=0
wanted=()
for argument in "$@"; do
  case "$argument" in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    check) wanted+=("${check[@]}") ;;
    --list) list=1 ;;
    -h | --help) usage; exit 0 ;;
    *)
      echo "install-dependencies: '$argument' is no set, expected build, test or check" >&2
      usage >&2
      exit 2
      ;;
  esac
done
[[ ${#wanted[@]} -gt 0 ]] || wanted=("${build[@]}")

if ! command -v dpkg-query >/dev/null; then
  echo "install-dependencies: no dpkg-query here, expected Debian 12; install the equivalent of:" >&2
  printf '  %s\n' "${wanted[@]}" >&2
  exit 1
fi

# dpkg-query exits with 1 if it does not know one of the names; that is what `missing` is about.
installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
done

if [[ $list -eq 1 ]]; then
  [[ ${#missing[@]} -eq 0 ]] || printf '%s\n' "${missing[@]}"
  exit 0
fi
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "install-dependencies: neither root nor sudo, expected one of them to run:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "install-dependencies: installing ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
