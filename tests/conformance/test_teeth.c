/* The battery has teeth: each kernel in turn is replaced by one that does nothing, and each time the rows of its op
 * must go red, in every dtype in which they are green with the kernel. */
#include <stdio.h>
#include <string.h>

#include "launch/compose.h"
#include "tests/conformance/battery.h"

static const hx_dtype dtypes[] = {HX_F32, HX_F64, HX_BF16, HX_F16};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

/* ---- a backend like another one, but for one op ---- */

static const hx_backend *whole;
static hx_backend gapped;
static hx_op missing = HX_OP_COUNT;

static hx_status exec_but_one(void *self, void *stream, const hx_op_call *call) {
    return call->op == missing ? HX_OK : whole->exec(self, stream, call);
}

static void gap_open(conf_rig *rig) {
    MUST(hx_register_backends());
    whole = hx_backend_find("cpu");
    cr_assert_not_null(whole);
    gapped = *whole;
    gapped.name = "gapped";
    gapped.exec = exec_but_one;
    MUST(hx_backend_register(&gapped));
    conf_rig_open("gapped", 2, rig);
}

/* ---- what the battery says of an op ---- */

typedef struct verdict {
    int n_passed, n_failed;
} verdict;

static void judge(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype, verdict *v) {
    conf_operands in;
    conf_result want, got;
    char text[512];
    conf_operands_make(ref, c, dtype, &in);
    MUST(conf_run(ref, c, dtype, &in, &want));
    hx_status status = conf_run(rig, c, dtype, &in, &got);
    if (status != HX_ERR_UNSUPPORTED) {
        bool differs = status != HX_OK || conf_result_differ(c, dtype, &want, &got, false, text, sizeof text);
        v->n_failed += differs;
        v->n_passed += !differs;
    }
    conf_result_free(&got);
    conf_result_free(&want);
    conf_operands_free(&in);
}

static verdict judge_op(conf_rig *ref, conf_rig *rig, hx_op op, hx_dtype dtype) {
    verdict v = {0};
    for (int i = 0; i < conf_n_cases; i++)
        if (conf_cases[i].op == op) judge(ref, rig, &conf_cases[i], dtype, &v);
    return v;
}

Test(teeth, a_kernel_that_does_nothing_turns_the_rows_of_its_op_red) {
    conf_rig ref, rig;
    conf_rig_open("ref", 1, &ref);
    gap_open(&rig);
    printf("%-20s cases red of all, without the kernel\n", "op");
    for (int op = 0; op < HX_OP_COUNT; op++) {
        const hx_op_info *info = hx_op_info_get((hx_op)op);
        if (info->flags & HX_OP_VIEW) continue;
        printf("%-20s", info->name);
        for (int d = 0; d < N_DTYPES; d++) {
            missing = HX_OP_COUNT;
            verdict with = judge_op(&ref, &rig, (hx_op)op, dtypes[d]);
            missing = (hx_op)op;
            verdict without = judge_op(&ref, &rig, (hx_op)op, dtypes[d]);
            printf("  %s %d/%d", hx_dtype_name(dtypes[d]), without.n_failed, without.n_failed + without.n_passed);
            if (with.n_passed + with.n_failed == 0) continue; /* unsupported */
            cr_expect_eq(with.n_failed, 0, "%s in %s fails with its kernel", info->name, hx_dtype_name(dtypes[d]));
            cr_expect_gt(without.n_failed, 0, "%s in %s stays green without its kernel", info->name, hx_dtype_name(dtypes[d]));
        }
        printf("\n");
    }
    missing = HX_OP_COUNT;
    conf_rig_close(&rig);
    conf_rig_close(&ref);
}
