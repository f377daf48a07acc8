/* Elements of any dtype that tests of collectives put in and expect back. */
#ifndef HX_TESTS_SUPPORT_ELEMENTS_H
#define HX_TESTS_SUPPORT_ELEMENTS_H

#include "core/tensor/dtype.h"
#include "dist/comm/comm.h"

static inline void set(void *data, hx_dtype dtype, int64_t i, int value) {
    hx_elem_set_complex(dtype, data, i, (double[2]){value, -value});
}

/* True if the element is what `set` stores; other parts than the real one count too. */
static inline bool holds(const void *data, hx_dtype dtype, int64_t i, int value) {
    double want[2], got[2], element[2]; /* room for any dtype */
    set(element, dtype, 0, value);
    hx_elem_get_complex(dtype, element, 0, want);
    hx_elem_get_complex(dtype, data, i, got);
    return got[0] == want[0] && got[1] == want[1];
}

static inline bool is_reducible(hx_dtype dtype, hx_reduce reduce) {
    return !hx_dtype_is_half(dtype) && dtype != HX_BOOL && (reduce == HX_SUM || !hx_dtype_is_complex(dtype));
}

/* Element i of what a rank puts in: sums of four ranks fit into i8. */
static inline int given(int rank, int64_t i) { return (int)((rank * 7 + i * 3) % 23); }

static inline int reduced(int size, int64_t i, hx_reduce reduce) {
    int r = given(0, i);
    for (int rank = 1; rank < size; rank++) {
        int x = given(rank, i);
        r = reduce == HX_SUM ? r + x : reduce == HX_MAX ? (x > r ? x : r) : (x < r ? x : r);
    }
    return r;
}

#endif
