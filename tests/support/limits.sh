#!/bin/sh
# Limits on functions (pmccabe): above 60 lines or complexity 15 is said, above 100 or 25 fails.
pmccabe "$@" | awk -F '\t' '
$1 > 15 || $5 > 60 {
    hard = $1 > 25 || $5 > 100
    printf "%s: complexity %d, %d lines: %s\n", hard ? "error" : "note", $1, $5, $6 " " $7
    bad += hard
}
END { exit bad > 0 }'
