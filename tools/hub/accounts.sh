#!/bin/sh
# accounts.sh students <names.txt >passwords.csv: an account and a password for each name; as root.
set -eu
group=$1
while read -r name; do
	[ -n "$name" ] || continue
	if id "$name" >/dev/null 2>&1; then
		echo "$name has an account already: left as it is." >&2
		continue
	fi
	useradd --create-home --key HOME_MODE=0700 --shell /bin/bash --groups "$group" "$name"
	password=$(openssl rand -base64 9)
	echo "$name:$password" | chpasswd
	echo "$name,$password"
done
