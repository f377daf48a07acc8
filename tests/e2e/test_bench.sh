#!/usr/bin/env bash
# helix bench measures, and the settings of the transport are heard.
. "$(dirname "$0")/common.sh"
quick=(bench comm --min 4Ki --max 32Ki)
expect 0 'all_to_all' "${two_ranks[@]}" "$helix" "${quick[@]}"
expect 0 'shared memory, beside plain MPI' "${two_ranks[@]}" "$helix" "${quick[@]}"
expect 0 '"collective":"reduce_scatter","bytes":32768,"seconds":' "${two_ranks[@]}" "$helix" "${quick[@]}" --json
HELIX_SHM=off expect 0 '"transport":"mpi"' "${two_ranks[@]}" "$helix" "${quick[@]}" --json
HELIX_SHM=off expect 0 'data go by mpi' "${two_ranks[@]}" "$helix" doctor
HELIX_SHM=on HELIX_COMM_CHECK=1 expect 0 'data go by shared memory' "${two_ranks[@]}" "$helix" doctor
HELIX_SHM=on HELIX_TEST_HOSTS=2 expect 8 'HELIX_SHM=on: the 2 ranks share no memory' "${two_ranks[@]}" "$helix" doctor
HELIX_SHM=of expect 2 'HELIX_SHM=of: expected auto, off or on' "${two_ranks[@]}" "$helix" doctor
expect 2 'start it by mpirun' "$helix" "${quick[@]}"
expect 2 'helix bench needs a verb' "$helix" bench

# the cpu: limits, then a row for each case and dtype that was asked for, whose figures fit each other
tiny=(bench cpu --threads 1 --rounds 1 --only mlp-small,add)
expect 0 'f32 multiply-adds' "$helix" "${tiny[@]}"
expect 0 ' steps/s, ' "$helix" "${tiny[@]}"
expect 0 'convolutions 3x3' "$helix" bench cpu --list --only cnn
"$helix" "${tiny[@]}" --bf16 --json >rows.jsonl || fail "exit code $? of $helix ${tiny[*]}"
python=$(command -v python3) || echo 'the figures are not looked at: there is no python3'
${python:-true} - rows.jsonl <<'PYTHON' || fail "rows of $(cat rows.jsonl)"
import json
import sys
limits, *rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert limits["threads"] == 1 and all(limits["limits"]["f32_flops"] + limits["limits"]["memory_bytes_per_s"]), limits
assert [(r["case"], r["dtype"]) for r in rows] == [("mlp-small", "f32"), ("mlp-small", "bf16"), ("add", "f32")], rows
for r in rows:
    assert r["seconds"] > 0 and r["gbytes_per_s"] > 0 and r["share"] > 0 and r["bound"] in ("flops", "bytes"), r
    assert r["peak_bytes"] > 1 << 20 and r["library"].startswith("helix "), r
step = rows[0]
assert step["unit"] == "steps" and abs(step["rate"] * step["seconds"] - 1) < 1e-9, step
# 8 samples through 32 x 64 and 64 x 10 parameters: 2 operations each forward and 4 backward, but none for the gradient of the input;
# the rest of the step, of which the update of 2762 parameters is most, is counted too
products = 8 * (32 * 64 * 4 + 64 * 10 * 6)
assert products < step["gflops"] * 1e9 * step["seconds"] < 2 * products, (products, step)
# 2762 parameters, gradients and two moments each, read and written, and the batch
assert abs(step["gbytes_per_s"] * 1e9 * step["seconds"] - (2762 * 32 + 8 * 32 * 4)) < 1, step
assert abs(rows[2]["gbytes_per_s"] * 1e9 * rows[2]["seconds"] - 6 * 4) < 1e-3, rows[2]
PYTHON
expect 2 '--only gpt3: no case has that in its name: gpt-6l, gpt2-t256' "$helix" bench cpu --only gpt2,gpt3
expect 2 'bench cpu --threads 0: expected 1 to' "$helix" bench cpu --threads 0
expect 2 'the cores that this process may run on' "$helix" bench cpu --threads 4096
expect 2 'rounds = 0 (command line): expected 1 to 10000' "$helix" bench cpu --rounds 0
expect 2 'start it without mpirun' "${two_ranks[@]}" "$helix" "${tiny[@]}"
# a case's process ends with its parent, whatever ends that
"$helix" bench cpu --threads 1 --rounds 10000 --only add >killed.txt 2>&1 &
killed=$! child=''
for _ in $(seq 300); do
    grep -q '^case' killed.txt && child=$(pgrep -P $killed) && break
    sleep 0.1
done
kill -9 $killed
wait $killed 2>/dev/null
sleep 0.5
if [ -z "${child:-}" ]; then
    fail "no process of a case: $(cat killed.txt)"
elif [ -e "/proc/$child/exe" ]; then # what is dead and not yet waited for has none
    kill -9 "$child"
    fail "the process of a case goes on without its parent"
fi
# what fails in a case's process is told as its parent's failure
HELIX_CPU_ISA=v9 expect 2 'HELIX_CPU_ISA=v9: expected' "$helix" "${tiny[@]}"
# a variable that is empty is as good as none
HELIX_CPU_ISA='' HELIX_GEMM='' HELIX_ALLOC='' HELIX_STREAM='' expect 0 'one element' "$helix" bench cpu --threads 1 --rounds 1 --only add
# what is wrong with a comparison is told before it, and not in an hour
compare=$root/tests/bench/compare.sh
expect 2 '--rounds 0: expected' "$compare" "$(dirname "$helix")" --rounds 0 --only add
expect 2 'nowhere/out.json cannot be written' "$compare" "$(dirname "$helix")" --only add --json nowhere/out.json
finish
