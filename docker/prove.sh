#!/bin/sh
# Builds docker/Dockerfile without a Docker engine, and uses the image as one would.
#
#   sudo docker/prove.sh [FOLDER]      # FOLDER for what it makes, 5 GB; a temporary one otherwise
#
# The base image is not downloaded but made by debootstrap out of Debian's packages, and buildah runs
# every line of the Dockerfile in a chroot (apt-get install buildah debootstrap). What comes out is
# entered as the image's user, without capabilities, on a root file system that cannot be written to,
# with only the volume and /tmp to write to: the pack is installed, the doctor must find no fault, the
# demo's clips are fetched and extracted, and the store must verify; then, without a network, by the
# scheduler and a worker of docker/compose.yaml, whose health check is asked, with the same digest.
#
# Not proved by this: Docker's own build and isolation, the published base image, compose, the GPU image.
#
# From the environment: TORCH and PIP_EXTRA_INDEX_URL as for the build, MIRROR of Debian, CLIPS (a folder
# in place of the demo's clips), PIP_CONF (pip's configuration inside, /etc/pip.conf if not given), SHARE
# (paths to be seen inside as they are here, such as a folder of wheels that PIP_CONF names). This
# machine's certificates hold inside too.
set -eu

repository=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
base=docker.io/library/debian:12-slim # as the Dockerfile calls it
image=localhost/facepipe-proof
mirror=${MIRROR:-http://deb.debian.org/debian}
mkdir -p "$work/data" "$work/storage"

say() { echo "== $*" >&2; }
stored() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }

shared=
for path in ${SHARE:-} ${CLIPS:-}; do
    [ ! -e "$path" ] || shared="$shared $path"
done
configuration=${PIP_CONF:-/etc/pip.conf}
certificates=/etc/ssl/certs/ca-certificates.crt

if ! stored inspect --type image "$base" >/dev/null 2>&1; then
    say "base: debootstrap"
    container=$(stored from scratch)
    debootstrap --variant=minbase bookworm "$(stored mount "$container")" "$mirror" >"$work/debootstrap.log"
    stored umount "$container" >/dev/null
    stored commit --quiet --rm "$container" "$base" >/dev/null
fi

say "image: buildah"
# Debian's ca-certificates makes its own bundle, and takes this one in.
set -- --volume "$certificates:/usr/local/share/ca-certificates/this-machine.crt:ro"
[ ! -e "$configuration" ] || set -- "$@" --volume "$configuration:/etc/pip.conf:ro"
for path in $shared; do set -- "$@" --volume "$path:$path:ro"; done
[ -z "${TORCH:-}" ] || set -- "$@" --build-arg "TORCH=$TORCH"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || set -- "$@" --build-arg "PIP_EXTRA_INDEX_URL=$PIP_EXTRA_INDEX_URL"
stored build --isolation chroot --format docker --pull-never --layers \
    --ignorefile "$repository/docker/.dockerignore" --file "$repository/docker/Dockerfile" \
    --tag "$image" "$@" "$repository" >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log" >&2; exit 1; }

container=$(stored from --pull-never "$image")
trap 'stored rm "$container" >/dev/null' EXIT
mounted=$(stored mount "$container")
config() { stored inspect --format "{{$1}}" "$container"; }
user=$(config .OCIv1.Config.User)
place=$(config .OCIv1.Config.WorkingDir)
config 'range .Docker.Config.Env}}{{println .}}{{end' | sed '/^$/d' >"$work/env"
for name in NODE_EXTRA_CA_CERTS SSL_CERT_FILE; do
    printenv "$name" | sed "s/^/$name=/" >>"$work/env" || true
done
say "as user $user in $place, health check $(config .Docker.Config.Healthcheck.Test)"
# A new volume gets the owner that its folder has in the image.
chown "$(stat -c %u:%g "$mounted$place")" "$work/data"
shared="$shared $certificates /etc/resolv.conf"
[ ! -e "$configuration" ] || cp "$configuration" "$mounted/etc/pip.conf"

# inside NAMESPACES COMMAND...: as the image's user; NAMESPACES are options of unshare(1).
inside() {
    namespaces=$1
    shift
    # shellcheck disable=SC2016,SC2086 # for the inner shell; lists of words
    MOUNTED=$mounted DATA=$work/data PLACE=$place SHARED=$shared USER_ID=$user \
        ENVIRONMENT=$work/env unshare --mount --pid --fork $namespaces sh -euc '
            mount --bind "$MOUNTED" "$MOUNTED"
            mount --bind "$DATA" "$MOUNTED$PLACE"
            mount -t tmpfs tmpfs "$MOUNTED/tmp"
            for path in $SHARED; do
                mkdir -p "$MOUNTED$(dirname "$path")"
                if [ -d "$path" ]; then mkdir -p "$MOUNTED$path"; else touch "$MOUNTED$path"; fi
                mount --bind "$path" "$MOUNTED$path"
            done
            mount -t proc proc "$MOUNTED/proc"
            mount --rbind /dev "$MOUNTED/dev"
            mount -o remount,bind,ro "$MOUNTED"
            ip link set lo up
            exec chroot "$MOUNTED" setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups \
                --no-new-privs --inh-caps=-all --bounding-set=-all \
                env -i $(cat "$ENVIRONMENT") sh -euc "cd $PLACE && exec \"\$@\"" sh "$@"
        ' sh "$@"
}

say "user $user, read-only root"
# shellcheck disable=SC2016 # for the inner shell
inside "" sh -euc '
    ! touch /opt/venv/written 2>/dev/null || { echo "the root file system can be written to"; exit 1; }
    test "$(id -u)" = 1000
    pipeline --version
    pipeline packs install lite
    pipeline doctor
'
clips=${CLIPS:-$place/clips}
[ -n "${CLIPS:-}" ] || inside "" python -c "
from pathlib import Path
from pipeline.demo.sources import fetch_clips
fetch_clips(Path('$place/clips'), echo=print)"
inside "" sh -euc "
    pipeline extract '$clips' --store first.store
    pipeline store verify first.store
    pipeline store digest first.store > first.digest
"

say "scheduler and worker of the compose file, no network"
inside --net sh -euc "
    dask scheduler --host 127.0.0.1 --port 8786 --dashboard-address :8787 2>scheduler.log &
    dask worker tcp://127.0.0.1:8786 --nthreads=1 --nworkers=1 --dashboard-address=:8788 \
        --local-directory=/tmp 2>worker.log &
    for port in 8787 8788; do
        python - \$port <<'PYTHON'
import sys, time, urllib.request
address = f'http://127.0.0.1:{sys.argv[1]}/health'
for _ in range(60):
    try:
        print(address, urllib.request.urlopen(address, timeout=5).read().decode())
        break
    except OSError:
        time.sleep(1)
else:
    sys.exit(f'{address} does not answer')
PYTHON
    done
    pipeline extract '$clips' --scheduler tcp://127.0.0.1:8786 --store second.store
    pipeline store digest second.store > second.digest
    cmp first.digest second.digest
"
say "proved: builds, installs the pack, passes the doctor, extracts; the same by scheduler and worker"
