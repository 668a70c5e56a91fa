#!/bin/sh
# In the place of runc: notes how it was called, and ends with a status of its own.
printf '%s\n' "$@" > "$NOTED"
exit 7
