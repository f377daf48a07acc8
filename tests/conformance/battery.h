/* The conformance battery: one table of cases (cases.c), and what the tests do with a case: make its operands
 * from a seed, run it on a device, compare two results.
 *
 *     conf_rig ref, cpu; conf_rig_open("ref", 1, &ref); ...
 *     conf_operands in; conf_operands_make(&ref, &conf_cases[i], HX_F32, &in);
 *     conf_result a, b; conf_run(&ref, &conf_cases[i], HX_F32, &in, &a); ...
 *     conf_result_differ(&conf_cases[i], HX_F32, &a, &b, text, sizeof text)
 *
 * Operands are written as words: an optional letter for the dtype, the dims, and an optional letter for a view.
 *
 *     f f32   d f64   h bf16   g f16   i i32   l i64   b u8   c i8   o bool   z c64   w c128
 *     a  what sums of the run's dtype are kept in (f32 in half runs)      x  the complex type of that
 *     without a letter: the dtype of the run
 *
 *     "3,5"   [3,5], row-major                  "."     a scalar
 *     "3,5t"  the transpose of a [5,3] buffer
 *     "3,5s"  every second element of a [3,10] buffer's rows
 *     "3,5h"  the first half of a [6,5] buffer's dim -2, so that rows are dense and blocks are not
 *     "3,5e"  one row repeated with stride 0
 *     "3,5u"  all but the first element of a [16] buffer: dense, and not where a pack of elements may begin
 *     "@1"    output 1 of the op's forward op on the operands before
 *     "=1"    operand 1 once more: the same tensor
 */
#ifndef HX_TESTS_CONFORMANCE_BATTERY_H
#define HX_TESTS_CONFORMANCE_BATTERY_H

#include "core/op/ops.h"

/* For what has to work before a test can judge anything. A program that measures has no test runner to tell. */
#ifdef CONF_NO_RUNNER
#include <stdio.h>
#include <stdlib.h>
#define NEED(condition, ...)                                                                                 \
    do {                                                                                                     \
        if (condition) break;                                                                                \
        fprintf(stderr, __VA_ARGS__);                                                                        \
        fputc('\n', stderr);                                                                                 \
        exit(EXIT_FAILURE);                                                                                  \
    } while (0)
#else
#include <criterion/criterion.h>
#define NEED(condition, ...) cr_assert(condition, __VA_ARGS__)
#endif
#define MUST(call) NEED((call) == HX_OK, "%s", hx_error_message())

typedef enum conf_range {
    CONF_PLAIN,     /* -2 .. 2 */
    CONF_POSITIVE,  /* 0.5 .. 2 */
    CONF_UNIT,      /* -0.9 .. 0.9: values of tanh and sigmoid */
    CONF_OFF_KINKS, /* operand k: n + 0.3 + 0.4 k with n in -2 .. 1: farther from 0 and from the other operand
                       than the longest step of a gradient check */
    CONF_WIDE,      /* -1e4 .. 1e4 */
    CONF_APART,     /* 64 numbers, in no order, farther from each other than the longest step of a gradient check: which
                       is the largest does not change */
    CONF_SIZES,     /* 32 numbers of both signs whose sizes are as far from each other: which |x| is the largest does not
                       change */
    CONF_ABOVE_ONE, /* 1.5 .. 3 */
    CONF_HALF,      /* -0.5 .. 0.5: within the unit circle, with room for the steps of a gradient check */
    CONF_STEPS,     /* 16 numbers between -2 and 2, a quarter apart: the first 16 of an operand differ, larger operands
                       are full of ties */
} conf_range;

/* How far a kernel's result may be from ref's, which is exact up to its one rounding. conf_tolerances has the
 * numbers and the reasons. */
typedef enum conf_tolerance {
    CONF_EXACT,
    CONF_FEW,
    CONF_LIBM,
    CONF_MIXED,
    CONF_SUM,
    CONF_WEIGHTS,
    CONF_N_TOLERANCES
} conf_tolerance;

typedef struct conf_tolerance_rule {
    double ulps;  /* units of the dtype's epsilon times max(floor, |expected|) */
    double floor; /* below this size an error counts as if the value were this large */
    const char *why;
    double half_units; /* what results of half types may be off by besides, times the root of terms: units of their epsilon, of
                          size max(floor, |expected|) */
} conf_tolerance_rule;

extern const conf_tolerance_rule conf_tolerances[CONF_N_TOLERANCES];

typedef struct conf_case {
    hx_op op;
    const char *in;
    const char *out; /* outputs as words, for ops that update them and for strided ones; NULL: as the shape
                        rule says */
    hx_op_attr attr;
    conf_range range;
    conf_tolerance tolerance;
    int64_t terms; /* of the longest sum, for CONF_SUM and CONF_WEIGHTS */
    int64_t n_ids; /* ids are drawn from [0, n_ids) */
    bool grad;     /* small enough, and smooth on its range: the derivative is checked */
    bool wild_ids; /* one id in four is no id, or the one to be left out */
    bool has_nan;  /* NaN is a right answer */
    bool fills;    /* outputs start as random numbers: the op updates them or adds to them */
    unsigned skip; /* outputs not wanted, bit i */
} conf_case;

extern const conf_case conf_cases[];
extern const int conf_n_cases;

/* A device with a stream and a context that records nothing. */
typedef struct conf_rig {
    hx_device *device;
    hx_stream *stream;
    hx_ctx ctx;
    hx_device_props props;
} conf_rig;

void conf_rig_open(const char *backend, int n_threads, conf_rig *out);
void conf_rig_close(conf_rig *rig);
/** The i-th registered backend that computes, ref excepted; NULL when there are no more. */
const char *conf_backend(int i);
/** Run `body` on ref and on every other computing backend, in f32 and f64. */
void conf_on_every_backend(void (*body)(conf_rig *rig, hx_dtype dtype));
/** The seed in use: environment HELIX_TEST_SEED, else 1, until conf_seed_use chose another. */
uint64_t conf_seed(void);
/** Use the i-th seed, print it, and say that there was one: 1, 2, 3, or HELIX_TEST_SEED alone. Before rigs are opened.
 *      for (int i = 0; conf_seed_use(i); i++) ... */
bool conf_seed_use(int i);

/* An operand before it is on a device. */
typedef struct conf_operand {
    hx_dtype dtype;
    char letter;    /* of the dtype; 0, a and x follow the dtype of the run */
    bool is_made;   /* "@k" */
    bool is_again;  /* "=k", with operand k's dtype, shape and view; no values */
    int again;      /* k */
    char view;      /* 0, t, s, h, e or u */
    hx_shape shape; /* as the op sees it */
    hx_shape base;  /* of the buffer */
    double *values; /* [count(base)], of a complex type [count(base),2]; owned */
} conf_operand;

typedef struct conf_operands {
    int n;
    conf_operand items[HX_OP_MAX_IN];
} conf_operands;

/** Parse a word other than "@k" and "=k". */
void conf_operand_parse(const char *word, hx_dtype dtype, conf_operand *out);
/** Draw a case's inputs. @param ref  runs the forward op for "@k" */
void conf_operands_make(conf_rig *ref, const conf_case *c, hx_dtype dtype, conf_operands *out);
/** Give a dtype, and values of it, to the operands whose dtype follows the run's. */
void conf_operands_retype(const conf_case *c, conf_operands *in, hx_dtype dtype);
/** An operand, or an output that the case names, is of the dtype or of its complex type. */
bool conf_case_has(const conf_case *c, const conf_operands *in, hx_dtype dtype);
void conf_operands_free(conf_operands *operands);
/** The buffer on a device, and the view of it that the op sees; both are the caller's. */
void conf_operand_upload(conf_rig *rig, const conf_operand *operand, hx_tensor **base);
hx_status conf_operand_view(hx_ctx *ctx, const conf_operand *operand, hx_tensor *base, hx_tensor **view);

typedef struct conf_result {
    int n_out;
    struct {
        hx_dtype dtype;
        int64_t n;            /* elements of the buffer, guards included; 0: not written */
        unsigned char *bytes; /* the whole buffer, owned */
    } out[HX_OP_MAX_OUT];
} conf_result;

#define CONF_GUARD 64 /* elements before and after an output's buffer, which nobody may write */

/* A case with its operands and outputs on a device, ready to run any number of times. */
typedef struct conf_call {
    const conf_case *c;
    int n_in, n_out;
    hx_tensor *bases[HX_OP_MAX_IN], *views[HX_OP_MAX_IN];
    hx_tensor *buffers[HX_OP_MAX_OUT], *outputs[HX_OP_MAX_OUT];
} conf_call;

/** Outputs are what the case or the shape rule says, in buffers that hold 0xFF bytes (NaN, -1), or random numbers if the
 *  case says so. Where the rule refuses the operands' dtypes the outputs are those of an f32 run. */
void conf_call_make(conf_rig *rig, const conf_case *c, hx_dtype dtype, const conf_operands *in, conf_call *out);
hx_status conf_call_run(conf_rig *rig, conf_call *call);
/** The outputs' buffers as they are. */
void conf_call_read(conf_rig *rig, const conf_call *call, conf_result *out);
void conf_call_free(conf_call *call);

/** Run a case into buffers that hold 0xFF bytes (NaN, -1), or random numbers if it says so. Returns what the
 * shape rule or the op returned; the result is filled on HX_OK only. */
hx_status conf_run(conf_rig *rig, const conf_case *c, hx_dtype dtype, const conf_operands *in,
                   conf_result *out);
void conf_result_free(conf_result *result);
/** True, with a description, if `got` is not what `want` is within the case's tolerance, to which outputs of a half
 *  type add one unit of that type (is_exact: bit for bit). @param dtype  of the run */
bool conf_result_differ(const conf_case *c, hx_dtype dtype, const conf_result *want, const conf_result *got,
                        bool is_exact, char *text, size_t n_bytes);
/** True, with a description, if an element of an output still holds its poison. */
bool conf_result_unwritten(const conf_case *c, const conf_result *result, char *text, size_t n_bytes);

/* What became of the cases of an op in a dtype. */
typedef struct conf_verdict {
    int n_passed, n_refused, n_failed;
    hx_status code;   /* of the first that was refused */
    char reason[160]; /* and its message */
} conf_verdict;

void conf_verdict_refused(conf_verdict *v, hx_status code);
/** Print a line for each op that runs kernels, a column for each dtype, and at the end of a line the code and the reason
 *  of the first refusal; "pass 7 *": others are refused. @param table  [HX_OP_COUNT,n_dtypes] */
void conf_verdicts_print(const char *backend, const hx_dtype *dtypes, int n_dtypes, const conf_verdict *table);

/** "matmul 3,5 5,4 f32" */
const char *conf_case_text(const conf_case *c, hx_dtype dtype, char *text, size_t n_bytes);

#endif
