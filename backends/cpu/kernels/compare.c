/* Comparisons of integers and bool, and the choice between two operands of any dtype. */
#include "backends/cpu/kernels/kernels.h"

#define COMPARE(type, name, cmp)                                                                             \
    static void name##_##type(int64_t n, void *const *p, const void *param) {                                \
        (void)param;                                                                                         \
        uint8_t *o = p[0];                                                                                   \
        const type *a = p[1], *b = p[2];                                                                     \
        for (int64_t i = 0; i < n; i++) o[i] = a[i] cmp b[i];                                                \
    }
#define COMPARE_ALL(type)                                                                                    \
    COMPARE(type, equal, ==) COMPARE(type, not_equal, !=) COMPARE(type, less, <) COMPARE(type, less_equal, <=)
COMPARE_ALL(int32_t)
COMPARE_ALL(int64_t)
COMPARE_ALL(uint8_t)
COMPARE_ALL(int8_t)

#define ROW(type)                                                                                            \
    { [HX_OP_equal - HX_OP_equal] = equal_##type, [HX_OP_not_equal - HX_OP_equal] = not_equal_##type,        \
      [HX_OP_less - HX_OP_equal] = less_##type, [HX_OP_less_equal - HX_OP_equal] = less_equal_##type }
static const hx_map_fn comparisons[HX_DTYPE_COUNT][4] = {
    [HX_I32] = ROW(int32_t), [HX_I64] = ROW(int64_t), [HX_U8] = ROW(uint8_t), [HX_I8] = ROW(int8_t), [HX_BOOL] = ROW(uint8_t),
};

hx_status HX_K(compare_int)(hx_cpu *cpu, const hx_op_call *call) {
    const hx_array arrays[3] = {call->out[0], call->in[0], call->in[1]};
    return HX_K(map)(cpu, 1, 3, arrays, comparisons[arrays[1].dtype][call->op - HX_OP_equal], NULL, 1);
}

#define CHOOSE(type)                                                                                         \
    static void choose_##type(int64_t n, void *const *p, const void *param) {                                \
        (void)param;                                                                                         \
        type *o = p[0];                                                                                      \
        const uint8_t *cond = p[1];                                                                          \
        const type *a = p[2], *b = p[3];                                                                     \
        for (int64_t i = 0; i < n; i++) o[i] = cond[i] ? a[i] : b[i];                                        \
    }
CHOOSE(uint8_t)
CHOOSE(uint16_t)
CHOOSE(uint32_t)
CHOOSE(uint64_t)
CHOOSE(hx_bytes16)

hx_status HX_K(where)(hx_cpu *cpu, const hx_op_call *call) {
    static const hx_map_fn by_bytes[17] = {
        [1] = choose_uint8_t, [2] = choose_uint16_t, [4] = choose_uint32_t, [8] = choose_uint64_t, [16] = choose_hx_bytes16};
    const hx_array arrays[4] = {call->out[0], call->in[0], call->in[1], call->in[2]};
    return HX_K(map_stored)(cpu, 4, arrays, by_bytes[hx_dtype_bytes(arrays[0].dtype)], NULL, 1);
}
