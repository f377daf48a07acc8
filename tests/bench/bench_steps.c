/* Runs a few training steps of a case of `helix bench cpu` on one thread, for instructions.sh, which counts what they execute.
 *
 *     bench_steps CASE f32|bf16 STEPS      the steps behind one that finds the memory, in counted_steps
 *     bench_steps                          what else decides the count: compiler, C library, OpenBLAS
 */
#include <cblas.h>
#include <gnu/libc-version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "launch/bench_impl.h"

enum { N_WARM_UP = 1 };

/* A function of its own, whose name valgrind looks for: it counts nothing outside of it. */
hx_status counted_steps(const hx_bench_case *c, hx_bench_rig *rig, int n);

__attribute__((noinline)) hx_status counted_steps(const hx_bench_case *c, hx_bench_rig *rig, int n) {
    for (int i = 0; i < n; i++) HX_TRY(c->call(rig));
    return hx_stream_sync(rig->ctx.stream);
}

static hx_status run_case(const hx_bench_case *c, hx_bench_rig *rig, int n) {
    hx_status status = c->open(rig);
    for (int i = 0; i < N_WARM_UP && status == HX_OK; i++) status = c->call(rig);
    if (status == HX_OK) status = counted_steps(c, rig, n);
    c->close(rig);
    return status;
}

static hx_status run(const hx_bench_case *c, hx_dtype dtype, int n) {
    hx_bench_rig rig = {.dtype = dtype, .row = c->row};
    hx_status status;
    HX_TRY(hx_backend_register(&hx_backend_cpu));
    HX_TRY(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &rig.ctx.device));
    HX_TRY_GOTO(hx_stream_create(rig.ctx.device, &rig.ctx.stream), done);
    HX_TRY_GOTO(hx_tape_create(rig.ctx.device, &rig.ctx.tape), done);
    status = run_case(c, &rig, n);
done:
    hx_tape_destroy(&rig.ctx.tape);
    hx_stream_destroy(&rig.ctx.stream);
    hx_device_close(&rig.ctx.device);
    return status;
}

static const hx_bench_case *find_case(const char *name) {
    for (int i = 0; i < hx__bench_n_train_cases; i++)
        if (strcmp(name, hx__bench_train_cases[i].name) == 0) return &hx__bench_train_cases[i];
    return NULL;
}

/* "OpenBLAS 0.3.21 ..." without the rest, which names the CPU. */
static void print_surroundings(void) {
    const char *blas = openblas_get_config();
    const char *version = strchr(blas, ' ');
    const int n = version != NULL ? (int)(version - blas + 1) + (int)strcspn(version + 1, " ") : (int)strlen(blas);
    printf("compiler %s, libc %s, %.*s\n", __VERSION__, gnu_get_libc_version(), n, blas);
}

int main(int argc, char **argv) {
    const hx_bench_case *c = argc == 4 ? find_case(argv[1]) : NULL;
    const bool is_bf16 = c != NULL && strcmp(argv[2], "bf16") == 0;
    const int n = c != NULL ? atoi(argv[3]) : 0;
    if (argc == 1) {
        print_surroundings();
        return EXIT_SUCCESS;
    }
    if (c == NULL || n < 1 || (!is_bf16 && strcmp(argv[2], "f32") != 0)) {
        fprintf(stderr, "expected bench_steps CASE f32|bf16 STEPS, with a training case of `helix bench cpu --list`\n");
        return EXIT_FAILURE;
    }
    hx_status status = run(c, is_bf16 ? HX_BF16 : HX_F32, n);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    return hx_status_exit_code(status);
}
