#!/usr/bin/env bash
# nccl2on1.sh PROGRAM ARGUMENT...: the program on two ranks that share one GPU, with NCCL between them. NCCL refuses two
# ranks of one host on one GPU; told that they are two hosts, it connects them by sockets. That is no documented use
# (seen to work with NCCL 2.28): a test of correctness, not of speed, and one that may be skipped.
# RANKS (2) and SECONDS_MOST (120) in the environment.
set -eu
export NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_MNNVL_ENABLE=0 NCCL_NVLS_ENABLE=0
export NCCL_MAX_CTAS=4 HELIX_CUDA_SHARE=1
exec timeout -k 5 "${SECONDS_MOST:-120}" mpirun --oversubscribe --bind-to none -n "${RANKS:-2}" \
    bash -c 'export NCCL_HOSTID=helix-$OMPI_COMM_WORLD_RANK; exec "$@"' rank "$@"
