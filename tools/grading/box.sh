#!/bin/sh
# Runs a command where it can neither reach a network nor change or see what is not its own.
#
#     unshare --user --map-root-user --mount --net --pid --fork --kill-child --mount-proc \
#         sh box.sh BOX HIDDEN ... -- COMMAND ...
#
# BOX is the one folder that stays writable, and the command starts in its folder work; HIDDEN folders look empty. Everything else is there to
# read. The second unshare locks all this: the command can take none of it back.
set -e
box=$1
shift
cd "$box"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mount -t tmpfs -o size=1m,mode=755 none "$1"; fi
    shift
done
shift
mkdir -p "$box"                # the box may lie in a hidden folder;
mount -c --bind . "$box"       # "." is still the real one
mounts=$(cut -d ' ' -f 2 /proc/self/mounts)
for place in $mounts; do
    place=$(printf '%b' "$place")  # a blank in a path is written \040
    case $place in "$box" | /proc | /proc/*) ;; *) mount -o remount,bind,ro "$place" 2>/dev/null || : ;; esac
done
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o size=512m none /dev/shm 2>/dev/null || :
cd "$box/work"
unset JPY_PARENT_PID              # seen from here, the parent has no number
exec unshare --user --map-root-user --mount -- "$@"
