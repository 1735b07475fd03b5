#!/bin/sh
# Starts nats-server in compose.yaml. Here, where for certain no server runs on the store any more, the log of a stack that
# had one password for everybody is given to the account that has it now: one rename, once (services/nats_server/store_account.py).
set -eu
accounts=${STORE_DIR:-/var/lib/nats}/jetstream
stores() { [ -n "$(ls -A "$1/streams" 2>/dev/null)" ]; }
if stores "$accounts/\$G"; then
    if stores "$accounts/TRAINSHED"; then
        echo "there are two stores, $accounts/\$G and $accounts/TRAINSHED: an older release ran here after a newer one. Move away the one that it made" >&2
        exit 1
    fi
    for empty in "$accounts/TRAINSHED/streams" "$accounts/TRAINSHED"; do
        [ ! -e "$empty" ] || rmdir "$empty"
    done
    mv "$accounts/\$G" "$accounts/TRAINSHED"
fi
exec nats-server -c /etc/trainshed/nats.conf
