#!/bin/sh
# The init service of compose.yaml: gives the volumes to the user that the services run as, and has that user make authority,
# certificates and accounts where they are not there yet. It runs at each `up`, changes nothing that counts, and puts right
# what a restored backup left to root.
set -eu
umask 077
owner=10001:10001

for folder in /store /authority /etc/trainshed/*/; do
    [ "$folder" = /etc/trainshed/join/ ] && continue
    [ "$(stat -c %u:%g "$folder")" = "$owner" ] && [ -z "$(find "$folder" ! -user "${owner%:*}" | head -n 1)" ] || chown -R "$owner" "$folder"
    [ "$folder" = /store ] || chmod 0700 "$folder"
done

TRAINSHED_STATE_DIR=/authority setpriv --reuid="${owner%:*}" --regid="${owner#*:}" --clear-groups \
    /opt/trainshed/bin/trainshed cluster volumes /etc/trainshed \
    --host "$TRAINSHED_HOST" --host nats --port "$TRAINSHED_PORT" --enrol-port "$TRAINSHED_ENROL_PORT"

# The token by which agents join is for root in their containers: workers run as another user there.
join=/etc/trainshed/join
chown 0:0 "$join"
chmod 0700 "$join"
cat /authority/join.token > "$join/token.new"
mv "$join/token.new" "$join/token"
