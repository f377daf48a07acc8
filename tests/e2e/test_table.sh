#!/usr/bin/env bash
# The example that learns from a CSV file, with the file that it describes.
. "$(dirname "$0")/common.sh"
example=$(dirname "$helix")/example_csv_classifier
sed -n '/^ \*     awk/,/leaves.csv$/ s/^ \* *//p' "$root/examples/csv_classifier.c" >make.sh
bash make.sh || fail 'the command of its comment'
[ "$(wc -l <leaves.csv)" -eq 601 ] || fail 'leaves.csv has other lines than the comment says'
expect 0 '3 classes, the first is oak' "$example" --data.path leaves.csv --out one
expect 0 '3 classes' "${two_ranks[@]}" "$example" --data.path leaves.csv --out two
for run in one two; do
    grep '"event":"eval"' $run/metrics.jsonl | tail -1 | grep -oE '"accuracy":[0-9.]+' | awk -F: '{exit !($2 > 0.97)}' || fail "$run: it has not learnt"
done
sed -i '7s/,/,x/' leaves.csv
expect 5 'leaves.csv:7: column 2 (width)' "$example" --data.path leaves.csv --out three
finish
