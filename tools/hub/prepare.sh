#!/bin/sh
# Once, as root: groups, folders and secrets of the hub. A second time changes nothing.
set -eu
state=${MIXER_HUB:-/srv/mixer-hub}
course=$(cd "$(dirname "$0")/../.." && pwd)
getent group students >/dev/null || groupadd students
getent group teachers >/dev/null || groupadd teachers
install -d -m 0755 "$state" "$state/cache"  # readable for all, whatever root's umask is
# Everybody may hand something in; the sticky bit keeps each one's own.
install -d -m 1777 "$state/exchange"
install -d -m 0700 "$state/private"
umask 077
for secret in cookie_secret proxy_token; do
	[ -e "$state/private/$secret" ] || openssl rand -hex 32 >"$state/private/$secret"
done
# Solutions and hidden tests are for teachers.
chgrp -R teachers "$course/notebooks/assignments"
chmod -R o-rwx "$course/notebooks/assignments"
