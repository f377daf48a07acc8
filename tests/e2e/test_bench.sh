#!/usr/bin/env bash
# helix bench comm measures, and the settings of the transport are heard.
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
expect 2 'expected helix bench comm' "$helix" bench
finish
