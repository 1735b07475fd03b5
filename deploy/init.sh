#!/bin/sh
# The init service of compose.yaml: makes the stack's password, once, and gives the volumes to the user that the services
# run as. It runs at each `up`, changes nothing that is there, and puts right what a restored backup left to root.
set -eu
umask 077
secret=${SECRET_DIR:-/secret}
store=${STORE_DIR:-/store}
owner=${OWNER:-10001:10001}

if [ ! -s "$secret/password" ]; then
    od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n' > "$secret/password.new"
    sync
    mv "$secret/password.new" "$secret/password"
    echo "made a new password for the stack"
fi
printf 'authorization { user: trainshed, password: "%s" }\n' "$(cat "$secret/password")" > "$secret/auth.conf.new"
mv "$secret/auth.conf.new" "$secret/auth.conf"
chown -R "$owner" "$secret"
[ "$(stat -c %u:%g "$store")" = "$owner" ] && [ -z "$(find "$store" ! -user "${owner%:*}" | head -n 1)" ] || chown -R "$owner" "$store"
