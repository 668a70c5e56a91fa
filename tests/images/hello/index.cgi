#!/bin/sh
# Who answers, and who asked: the answer to every request for "/".
address=$(ip -4 -o address show dev eth0 2>/dev/null | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
printf 'Content-Type: application/json\r\n\r\n'
printf '{"hostname":"%s","address":"%s","caller":"%s"}\n' "$(hostname)" "$address" "$REMOTE_ADDR"
