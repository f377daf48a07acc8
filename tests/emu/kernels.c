/* The cases of some ops on the emulated device against ref, without a test runner: quick enough to be run for each planted
 * fault.
 *
 *     emu_kernels              names of the ops that the device has
 *     emu_kernels OP...        0: all cases agree; 1: one does not; the emulator ends the process with 66 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/battery.h"

static const hx_dtype dtypes[] = {HX_F32, HX_F64, HX_BF16, HX_F16};

/* Whether the case ran; a difference ends the program. */
static bool compare(conf_rig *ref, conf_rig *cuda, const conf_case *c, hx_dtype dtype) {
    conf_operands in;
    conf_result want, got;
    char text[512];
    conf_operands_make(ref, c, dtype, &in);
    hx_status expected = conf_run(ref, c, dtype, &in, &want), status = conf_run(cuda, c, dtype, &in, &got);
    if (status == HX_OK && expected == HX_OK && conf_result_differ(c, dtype, &want, &got, false, text, sizeof text)) {
        printf("%s\n", text);
        exit(EXIT_FAILURE);
    }
    conf_result_free(&got);
    conf_result_free(&want);
    conf_operands_free(&in);
    return status == HX_OK;
}

static bool runs(conf_rig *ref, conf_rig *cuda, hx_op op, size_t n_dtypes) {
    bool did = false;
    for (int i = 0; i < conf_n_cases; i++)
        for (size_t d = 0; d < n_dtypes && conf_cases[i].op == op; d++) did = compare(ref, cuda, &conf_cases[i], dtypes[d]) || did;
    return did;
}

static bool is_named(int argc, char **argv, hx_op op) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], hx_op_info_get(op)->name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    conf_rig ref, cuda;
    conf_rig_open("ref", 1, &ref);
    conf_rig_open("cuda", 1, &cuda);
    for (int op = 0; op < HX_OP_COUNT; op++) {
        if (argc > 1 && !is_named(argc, argv, (hx_op)op)) continue;
        bool did = runs(&ref, &cuda, (hx_op)op, argc > 1 ? sizeof dtypes / sizeof *dtypes : 1);
        if (argc == 1 && did) printf("%s\n", hx_op_info_get((hx_op)op)->name);
        if (argc > 1 && !did) printf("%s: the device has no kernel\n", hx_op_info_get((hx_op)op)->name);
    }
    conf_rig_close(&cuda);
    conf_rig_close(&ref);
    return EXIT_SUCCESS;
}
