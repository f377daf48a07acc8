#!/usr/bin/env bash
# --profile: files that a JSON reader takes, of both ranks on one time line; a table whose shares add up to all of a step; nothing of it
# shows in the training, and without it there is no file.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=(train "${small[@]}" --data.path corpus.txt --train.steps 16 --train.micro_batch 2 --threads 1)

# the table's rows of steps, from below the headings to the sum
table() { sed -n '/^ *calls /,/^  a step/p' "$1" | sed '1d'; }
# shares FILE: the rows' shares add up to 100, and their milliseconds to the step's
shares() {
    table "$1" | awk '{for (i = 1; i <= NF; i++) if ($i == "%") {if ($1 == "a" && $2 == "step") {step = $(i - 2)} else {share += $(i - 1); ms += $(i - 2)} n++}}
        END {printf "%d rows, %.1f %%, %.3f ms of %.3f\n", n, share, ms, step
             exit !(n > 10 && share > 99 && share < 101 && ms <= step * 1.01 && ms >= step * 0.99)}' || fail "the table does not add up: $(cat "$1")"
}
# count FILE TEXT: events of the file that hold it
count() { grep -cF -- "$2" "$1"; }
is_json() { if command -v python3 >/dev/null; then python3 -m json.tool "$1" >/dev/null; else [ "$(tail -c 4 "$1")" = ']}' ]; fi; }

"${two_ranks[@]}" "$helix" "${train[@]}" --out plain >plain.log 2>&1 || fail "plain: $(cat plain.log)"
[ -e plain/profile ] && fail 'a profile that nobody asked for'
grep -q 'profile of' plain.log && fail 'a table that nobody asked for'

# a save beside training begins within the window: it is waited for
"${two_ranks[@]}" "$helix" "${train[@]}" --out traced --profile --ckpt.every 12 --ckpt.async wait >traced.log 2>&1 || fail "traced: $(cat traced.log)"
grep -q 'profile of steps 5 to 14 on rank 0' traced.log || fail "no table of steps 5 to 14: $(cat traced.log)"
shares traced.log
for word in 'forward *linear' 'backward *matmul' 'optimizer *adamw' 'data *next batch' 'communication *gradient sync' 'not in any op' \
    'communication *all_reduce .*thread hx-comm' 'checkpoint *write file .*thread hx-ckpt'; do
    grep -qE "^ *$word" traced.log || fail "the table has no row $word"
done
for rank in 0 1; do
    file=traced/profile/rank-$rank.json
    is_json "$file" || fail "$file is no JSON"
    [ "$(count "$file" '"name":"step","cat":"step"')" -eq 10 ] || fail "$file has not ten steps"
    [ "$(count "$file" "\"args\":{\"name\":\"rank $rank of 2 on ")" -eq 1 ] || fail "$file does not name its rank"
    [ "$(count "$file" '"name":"linear","cat":"forward"')" -gt 100 ] || fail "$file: no products"
    [ "$(count "$file" '"args":{"name":"hx-comm"}')" -eq 1 ] || fail "$file: no thread for communication"
done
# both ranks of a step wait for each other in its reduction, so their steps overlap on one time line
starts() { grep -F '"cat":"step","pid":' "$1" | grep '"name":"step"' | sed 's/.*"ts":\([0-9.-]*\),"dur":\([0-9.]*\).*/\1 \2/'; }
paste <(starts traced/profile/rank-0.json) <(starts traced/profile/rank-1.json) |
    awk '{n++; if ($1 > $3 + $4 || $3 > $1 + $2) bad++} END {exit !(n == 10 && !bad)}' || fail 'the steps of two ranks lie apart'

# the same bits
"$helix" ckpt diff "$(step_file plain 16)" "$(step_file traced 16)" >diff.txt 2>/dev/null
[ "$(grep -c '^config ' diff.txt)" -eq 4 ] || fail "the options that differ: $(cat diff.txt)"
other=$(grep -vE '^(a: |b: |config |state +elapsed_s )' diff.txt) && fail "more differs than options and times: $other"

# a window at the end of a short run, and one that is longer than it; a run that goes on with fewer ranks leaves no old file
expect 0 'profile of steps 2 to 3,' "$helix" "${train[@]}" --out short --train.steps 3 --profile=2
"${two_ranks[@]}" "$helix" "${train[@]}" --out long --train.steps 4 --profile=100 >long.log 2>&1 || fail "long: $(cat long.log)"
grep -q 'profile of steps 1 to 4 on rank 0' long.log || fail "no table of all steps: $(cat long.log)"
expect 0 'profile of steps 9 to 10,' "$helix" "${train[@]}" --out long --train.steps 12 --profile=2 --resume
[ -e long/profile/rank-1.json ] && fail 'the file of a rank that is no more'
is_json long/profile/rank-0.json || fail 'long: no JSON'

# refused
expect 2 'expected a whole number' "$helix" "${train[@]}" --out bad --profile=all
expect 2 'expected 0 to 1000' "$helix" "${train[@]}" --out bad --profile=-1
expect 2 'expected 0 to 1000' "$helix" "${train[@]}" --out bad --profile 1001
expect 2 'there is no such option; did you mean profile?' "$helix" "${train[@]}" --out bad --profil
[ -e bad ] && fail 'a run that was refused left a folder'

# a folder that cannot be made is no reason to end a run
mkdir -p full
: >full/profile
expect 0 'PROFILE NOT WRITTEN, training goes on' "$helix" "${train[@]}" --out full --profile=3
finish
