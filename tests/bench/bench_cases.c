/* Times every op of the cpu device on one thread, at the largest case that the conformance battery has of it. Views run
 * no kernel and are left out.
 *
 *     bench_cases [--json] [--smoke] [part of a name]
 *
 * A line for each op and dtype: the median time of a call, per element of its largest operand or result, and the rates of
 * floating point operations and of bytes, where every operand counts once and one that is updated twice. --json prints
 * an object a line instead. --smoke runs each op a few times only, to see that it runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/conformance/battery.h"

#define MAX_RUNS 2000
#define MIN_RUNS 5
#define SECONDS  0.1 /* spent on each op and dtype */

typedef struct options {
    bool json, smoke;
    const char *filter; /* NULL: all */
} options;

typedef struct figures {
    double seconds, n_elements, n_flops, n_bytes; /* of a call */
} figures;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- the case ---- */

static int64_t word_elements(const char *list) {
    char words[256], *rest;
    int64_t n = 0;
    snprintf(words, sizeof words, "%s", list ? list : "");
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        conf_operand operand;
        if (*word == '@') continue;
        conf_operand_parse(word, HX_F32, &operand);
        n += hx_shape_count(&operand.shape);
    }
    return n;
}

/* The case with the most elements; NULL: the op is a view. */
static const conf_case *largest_case(hx_op op) {
    const conf_case *best = NULL;
    int64_t most = -1;
    for (int i = 0; i < conf_n_cases; i++) {
        const conf_case *c = &conf_cases[i];
        int64_t n = c->op == op ? word_elements(c->in) + word_elements(c->out) : -1;
        if (n <= most) continue;
        most = n;
        best = c;
    }
    return best;
}

/* ---- a row ---- */

static void count(const conf_call *call, figures *f) {
    bool updates = hx_op_info_get(call->c->op)->flags & HX_OP_INOUT;
    for (int k = 0; k < call->n_in + call->n_out; k++) {
        bool is_out = k >= call->n_in;
        const hx_tensor *x = is_out ? call->outputs[k - call->n_in] : call->views[k];
        double n = (double)hx_tensor_count(x);
        f->n_elements = n > f->n_elements ? n : f->n_elements;
        f->n_bytes += n * (double)hx_dtype_bytes(hx_tensor_dtype(x)) * (is_out && updates ? 2 : 1);
    }
}

static hx_status time_call(conf_rig *rig, conf_call *call, bool smoke, figures *f) {
    static double seconds[MAX_RUNS];
    hx_device_stats before, after;
    int n = 0;
    hx_device_stats_get(rig->device, &before);
    HX_TRY(conf_call_run(rig, call)); /* warm-up */
    hx_device_stats_get(rig->device, &after);
    f->n_flops = after.flops - before.flops;
    for (double start = now(); n < MAX_RUNS && (n < MIN_RUNS || (!smoke && now() - start < SECONDS)); n++) {
        double t = now();
        HX_TRY(conf_call_run(rig, call));
        seconds[n] = now() - t;
    }
    qsort(seconds, (size_t)n, sizeof *seconds, compare);
    f->seconds = seconds[n / 2];
    return HX_OK;
}

static void print(const options *o, const conf_case *c, hx_dtype dtype, const figures *f) {
    const char *op = hx_op_info_get(c->op)->name, *name = hx_dtype_name(dtype), *words = *c->in ? c->in : c->out;
    double per_element = f->seconds * 1e9 / f->n_elements, flops = f->n_flops / f->seconds * 1e-9, bytes = f->n_bytes / f->seconds * 1e-9;
    if (o->json)
        printf("{\"op\": \"%s\", \"in\": \"%s\", \"dtype\": \"%s\", \"us\": %.3f, \"ns_per_element\": %.4f, \"gflops\": %.4f, \"gbytes_per_s\": %.4f}\n",
               op, words, name, f->seconds * 1e6, per_element, flops, bytes);
    else
        printf("%-20s %-5s %10.2f us %9.3f ns/element %9.2f GFLOP/s %8.2f GB/s  %s\n", op, name, f->seconds * 1e6, per_element, flops, bytes, words);
    fflush(stdout);
}

/* A dtype that the op, the device or the case does not have gets no row. */
static hx_status bench(conf_rig *ref, conf_rig *rig, const options *o, const conf_case *c, hx_dtype dtype) {
    conf_operands in;
    conf_call call;
    figures f = {0};
    conf_operands_make(ref, c, dtype, &in);
    conf_call_make(rig, c, dtype, &in, &call);
    bool is_row = conf_case_has(c, &in, dtype);
    hx_status status = is_row ? time_call(rig, &call, o->smoke, &f) : HX_OK;
    if (status == HX_OK && is_row) {
        count(&call, &f);
        print(o, c, dtype, &f);
    } else if (is_row && hx_dtype_is_half(dtype) && (status == HX_ERR_DTYPE || status == HX_ERR_UNSUPPORTED)) {
        status = HX_OK;
    }
    conf_call_free(&call);
    conf_operands_free(&in);
    return status;
}

static bool takes_option(const char *text, options *o) {
    bool is_json = strcmp(text, "--json") == 0, is_smoke = strcmp(text, "--smoke") == 0;
    if (!is_json && !is_smoke && (*text == '-' || o->filter)) return false;
    if (is_json) o->json = true;
    else if (is_smoke) o->smoke = true;
    else o->filter = text;
    return true;
}

int main(int argc, char **argv) {
    static const hx_dtype dtypes[] = {HX_F32, HX_BF16};
    options o = {0};
    conf_rig ref, rig;
    hx_status status = HX_OK;
    for (int i = 1; i < argc; i++)
        if (!takes_option(argv[i], &o)) {
            fprintf(stderr, "%s: expected bench_cases [--json] [--smoke] [part of a name]\n", argv[i]);
            return EXIT_FAILURE;
        }
    conf_rig_open("ref", 1, &ref);
    conf_rig_open("cpu", 1, &rig);
    for (int op = 0; op < HX_OP_COUNT && status == HX_OK; op++) {
        const conf_case *c = largest_case((hx_op)op);
        if (!c || (o.filter && !strstr(hx_op_info_get((hx_op)op)->name, o.filter))) continue;
        for (int d = 0; d < 2 && status == HX_OK; d++) status = bench(&ref, &rig, &o, c, dtypes[d]);
    }
    if (status != HX_OK) fprintf(stderr, "%s\n%s", hx_error_message(), hx_error_trace());
    conf_rig_close(&rig);
    conf_rig_close(&ref);
    return hx_status_exit_code(status);
}
