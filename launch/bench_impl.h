/* What the files of `helix bench` share: its verbs, and the cases of `helix bench cpu`.
 *
 * A case opens what it works on (bench_train.c, bench_ops.c), is called again and again (bench_cpu.c), and is closed. It uses what any
 * program that links with Helix may use.
 */
#ifndef HX_LAUNCH_BENCH_IMPL_H
#define HX_LAUNCH_BENCH_IMPL_H

#include "core/autograd/tape.h"
#include "launch/cli.h"

hx_status hx__bench_comm(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx__bench_cpu(hx_cli *cli, int argc, char *const *argv, hx_session **session);

/** Seconds of a clock that only goes on. */
double hx__bench_now(void);
/** From the smallest to the largest. */
void hx__bench_sort(double *values, int64_t n);

/* Where a case runs, and what it keeps between its calls. */
typedef struct hx_bench_rig {
    hx_ctx ctx;      /* of a cpu device, with a tape */
    hx_dtype dtype;  /* of training: HX_F32 or HX_BF16 */
    const void *row; /* what the case was made of */
    void *state;     /* the case's own */
    double n_bytes;  /* that a call has to move: set by `open` */
} hx_bench_rig;

typedef struct hx_bench_case {
    const char *name, *what; /* "gpt-6l", and what that is */
    const void *row;         /* for `open` */
    bool is_training;        /* has a form in bf16, and its peak of memory is told */
    const char *unit;        /* of what a call does n_units of, "tokens"; NULL: nothing that one counts */
    double n_units;
    hx_status (*open)(hx_bench_rig *rig);
    hx_status (*prepare)(hx_bench_rig *rig); /* before each call, not timed; NULL: nothing */
    hx_status (*call)(hx_bench_rig *rig);
    void (*close)(hx_bench_rig *rig); /* also after `open` failed */
} hx_bench_case;

extern const hx_bench_case hx__bench_train_cases[], hx__bench_op_cases[];
extern const int hx__bench_n_train_cases, hx__bench_n_op_cases;

/* ---- bench_limits.c ---- */

/* What so many threads can do, per second. */
typedef struct hx_bench_limit {
    double f32, bf16;     /* operations; bf16 0: the CPU has no products of bf16 */
    double memory, cache; /* bytes */
} hx_bench_limit;

typedef struct hx_bench_limits {
    hx_bench_limit one, all; /* 1 thread, those of the device */
    int64_t cache_bytes;     /* that count as within the largest cache */
    char device[128];        /* hx_device_props.name */
} hx_bench_limits;

hx_status hx__bench_limits_measure(hx_device *device, hx_bench_limits *out);
/** Of a call in `seconds`: what the limit of all threads that binds would have taken, by that.
 *  @param[out] bound  "flops" or "bytes" */
double hx__bench_limits_share(const hx_bench_limits *limits, hx_dtype dtype, double n_flops, double n_bytes, double seconds, const char **bound);
void hx__bench_limits_print(const hx_bench_limits *limits, int n_threads);
/** A new object; NULL: no memory. */
json_t *hx__bench_limits_json(const hx_bench_limits *limits);

#endif
